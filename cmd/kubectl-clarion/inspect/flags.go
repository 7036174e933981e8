package inspect

import (
	"fmt"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/iprange"
)

// flags are the flags of the controller that decide what it gives.
type flags struct {
	class    string
	reserved []allocator.Reserved
}

// controllerFlags reads them off the controller's Pods; all replicas are
// taken to have the same.
func controllerFlags(pods []v1.Pod) (flags, []error) {
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			if c.Name == "controller" {
				return parseFlags(append(c.Command[:len(c.Command):len(c.Command)], c.Args...))
			}
		}
	}
	return flags{}, nil
}

// parseFlags reads args as package flag does: one dash or two, the value
// behind «=» or as the next argument.
func parseFlags(args []string) (f flags, problems []error) {
	value := func(i int, name string) (string, bool) {
		flag := strings.TrimPrefix(strings.TrimPrefix(args[i], "-"), "-")
		if flag == args[i] {
			return "", false
		}
		if v, ok := strings.CutPrefix(flag, name+"="); ok {
			return v, true
		}
		if flag == name && i+1 < len(args) {
			return args[i+1], true
		}
		return "", false
	}
	for i := range args {
		if v, ok := value(i, "load-balancer-class"); ok {
			f.class = v
		}
		for _, name := range []string{"service-cidrs", "pod-cidrs"} {
			list, ok := value(i, name)
			if !ok {
				continue
			}
			for text := range strings.SplitSeq(list, ",") {
				text = strings.TrimSpace(text)
				if text == "" {
					continue
				}
				p, err := netip.ParsePrefix(text)
				if err != nil {
					problems = append(problems, fmt.Errorf("the controller's flag --%s: %q is not a CIDR", name, text))
					continue
				}
				f.reserved = append(f.reserved, allocator.Reserved{Range: iprange.OfPrefix(p.Masked()), Reason: fmt.Sprintf("in %s, which the flag --%s names", p.Masked(), name)})
			}
		}
	}
	return f, problems
}
