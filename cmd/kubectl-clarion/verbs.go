package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/migrate"
	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// show writes value as JSON or YAML, or has people write it on a page.
func (a app) show(o *options, value any, people func(*text.Page)) error {
	switch o.output {
	case "json":
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(value); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	case "yaml":
		out, err := yaml.Marshal(value)
		if err == nil {
			_, err = a.out.Write(out)
		}
		if err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	default:
		page := text.NewPage(a.out, a.color)
		people(page)
		if err := page.Err(); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	}
	return nil
}

// found is the error that makes exit code 3 of bad news.
func found(bad bool) error {
	if bad {
		return errFindings
	}
	return nil
}

func (a app) statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "status", Args: noArgs,
		Short: "Show on one screen how Clarion stands, problems first",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, _, err := a.reader(o)
			if err != nil {
				return err
			}
			c, err := r.Read(cmd.Context())
			if err != nil {
				return err
			}
			r.AskStatus(cmd.Context(), c)
			s := inspect.StatusOf(c)
			if err := a.show(o, s, func(p *text.Page) { s.Write(p, c.Now, o.all) }); err != nil {
				return err
			}
			return found(len(s.Problems) > 0)
		},
	}
}

func (a app) poolsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "pools", Args: noArgs,
		Short: "Show the pools in force, what is used of them, and what is wrong in clarion-pools",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, _, err := a.reader(o)
			if err != nil {
				return err
			}
			c, err := r.Read(cmd.Context())
			if err != nil {
				return err
			}
			pools := inspect.PoolsOf(c)
			if err := a.show(o, pools, func(p *text.Page) { pools.Write(p, o.all) }); err != nil {
				return err
			}
			return found(len(pools.Problems) > 0)
		},
	}
}

func (a app) explainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "explain SERVICE", Args: oneArg("the name of a Service"),
		Short: "Follow a Service from its request to its packets: why it has what it has, and why not more",
		Long: "Follow a Service from its request to its packets: whose it is, what each pool gives or why it does not,\n" +
			"which node announces each address and why the others do not, the last Events, and what to do.\n" +
			"SERVICE is a name, or NAMESPACE/NAME.",
		ValidArgsFunction: a.completeService(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, connection, err := a.reader(o)
			if err != nil {
				return err
			}
			key, err := serviceKey(args[0], o.namespace, connection.namespace)
			if err != nil {
				return err
			}
			c, err := r.Read(cmd.Context())
			if err != nil {
				return err
			}
			if err := r.ReadService(cmd.Context(), c, key); err != nil {
				return err
			}
			r.AskExplanation(cmd.Context(), c, key)
			e := inspect.Explain(c, key)
			if err := a.show(o, e, func(p *text.Page) { e.Write(p, c.Now, o.all) }); err != nil {
				return err
			}
			return found(e.Request.Ours && !e.Works)
		},
	}
}

// serviceKey reads NAME or NAMESPACE/NAME. The flag is stronger than the
// context.
func serviceKey(arg, flag, context string) (cluster.Key, error) {
	namespace, name, qualified := strings.Cut(arg, "/")
	switch {
	case !qualified:
		namespace, name = flag, arg
		if namespace == "" {
			namespace = context
		}
	case flag != "" && flag != namespace:
		return "", usageError{fmt.Errorf("%s names another namespace than --namespace=%s", arg, flag)}
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", usageError{fmt.Errorf("%q is not the name of a Service; write NAME, or NAMESPACE/NAME", arg)}
	}
	return cluster.Key(namespace + "/" + name), nil
}

// completeService offers the names of the Services in the namespace.
func (a app) completeService(o *options) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.connect(o.target)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		namespace := o.namespace
		if namespace == "" {
			namespace = c.namespace
		}
		list, err := c.client.CoreV1().Services(namespace).List(cmd.Context(), metav1.ListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, s := range list.Items {
			if s.Spec.Type == "LoadBalancer" {
				names = append(names, s.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a app) planCommand(o *options) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use: "plan -f FILE", Args: noArgs,
		Short: "Show what an edit of clarion-pools would do to the Services, before it is made",
		Long: "Show what an edit of clarion-pools would do: which Services keep their addresses, would be stranded, would\n" +
			"become served, would still wait, and which pools would be refused. It changes nothing. FILE is the manifest of\n" +
			"the ConfigMap or only its data, as YAML or JSON; «-» reads standard input.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{errors.New("plan needs the file with the new pools: --filename FILE, or - for standard input")}
			}
			data, err := a.readPools(file, o.clarion)
			if err != nil {
				return err
			}
			r, _, err := a.reader(o)
			if err != nil {
				return err
			}
			c, err := r.Read(cmd.Context())
			if err != nil {
				return err
			}
			p, err := inspect.PlanOf(c, data)
			if err != nil {
				return err
			}
			if err := a.show(o, p, func(page *text.Page) { p.Write(page, c.Now, o.all) }); err != nil {
				return err
			}
			return found(p.Bad())
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "file with the new pools; - for standard input")
	return cmd
}

func (a app) migrateCommand(o *options) *cobra.Command {
	from, namespace, apply, force := "", "", false, false
	cmd := &cobra.Command{
		Use: "migrate --from metallb|kube-vip", Args: noArgs,
		Short: "Plan how Services are taken over from another load balancer with the addresses they have",
		Long: "Read what another load balancer has been told, print it as pools of Clarion, and plan a take-over in which every\n" +
			"Service keeps its address. Nothing is changed without --apply, which does the steps that are ready and stops\n" +
			"where a person has to do something; run it again afterwards.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from != migrate.MetalLBName && from != migrate.KubeVIP {
				return usageError{fmt.Errorf("--from is %q; it can be %s or %s", from, migrate.MetalLBName, migrate.KubeVIP)}
			}
			reader, connection, err := a.reader(o)
			if err != nil {
				return err
			}
			r := &migrate.Reader{Reader: reader, PeerNamespace: namespace}
			state, converted, err := r.Read(cmd.Context(), from)
			if err != nil {
				return err
			}
			p := migrate.PlanOf(state, converted)
			var changed []string
			if apply {
				if p.Bad() && !force {
					return a.refuse(o, p)
				}
				done, err := migrate.Apply(cmd.Context(), connection.client, p)
				for _, s := range done {
					fmt.Fprintf(a.err, "done: %s: %s\n", s.Object, s.What)
				}
				if err != nil {
					return err
				}
				if changed, err = migrate.Check(cmd.Context(), connection.client, p); err != nil {
					return err
				}
				if state, converted, err = r.Read(cmd.Context(), from); err != nil {
					return err
				}
				p = migrate.PlanOf(state, converted)
			}
			if err := a.show(o, p, func(page *text.Page) { p.Write(page, o.all, apply) }); err != nil {
				return err
			}
			for _, c := range changed {
				fmt.Fprintln(a.err, c)
			}
			return found(p.Bad() || len(changed) > 0)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "metallb or kube-vip")
	cmd.Flags().StringVar(&namespace, "peer-namespace", "", "namespace of the other load balancer; default is metallb-system or kube-system")
	cmd.Flags().BoolVar(&apply, "apply", false, "do the steps that are ready")
	cmd.Flags().BoolVar(&force, "force", false, "with --apply: do them although something would be lost")
	return cmd
}

// refuse shows a plan by which something would be lost and does not do it.
func (a app) refuse(o *options, p migrate.Plan) error {
	if err := a.show(o, p, func(page *text.Page) { p.Write(page, o.all, false) }); err != nil {
		return err
	}
	fmt.Fprintln(a.err, "nothing was changed, because something would be lost: see the first section; settle that and run it again, or add --force")
	return errFindings
}
