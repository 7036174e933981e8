package plugin_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/nstest"
)

// killed runs the plugin so that it dies by kill -9 after its n-th step. It
// reports false when the call had fewer steps and succeeded.
func (n *node) killed(c call, step int) bool {
	n.t.Helper()
	c.env = append(c.env, fmt.Sprintf("%s=%d", dieAt, step))
	_, err := n.exec(c)
	switch {
	case err == nil:
		return false
	case strings.Contains(err.Msg, "signal: killed"):
		return true
	}
	n.t.Fatalf("%s, to be killed at step %d: %v", c.command, step, err)
	return false
}

// Whatever a killed ADD or DEL leaves, each way in which a runtime may go on
// ends with nothing leaked.
func TestKillAtEveryStep(t *testing.T) {
	n := bare(t)
	gc := func(p *pod, _ int) {
		c := n.callFor("GC", p)
		c.stdin = n.conf(`,"cni.dev/valid-attachments":[]`)
		if _, err := n.exec(c); err != nil {
			t.Fatalf("GC: %v", err)
		}
	}
	del := func(p *pod, _ int) {
		if _, err := n.exec(n.callFor("DEL", p)); err != nil {
			t.Fatalf("DEL: %v", err)
		}
	}
	readd := func(p *pod) {
		n.mustAdd(p)
		p.must("ping", "-c1", "-W2", "169.254.1.1")
		if err := n.check(p); err != nil {
			t.Fatalf("CHECK after the second ADD: %v", err)
		}
	}
	tests := []struct {
		command string
		then    string
		goOn    func(p *pod, step int)
	}{
		{"ADD", "DEL", del},
		{"ADD", "GC", gc},
		{"ADD", "ADD again, DEL", func(p *pod, _ int) {
			// A killed ADD that had finished counts as finished.
			if _, err := n.exec(n.callFor("CHECK", p)); err == nil {
				t.Fatal("CHECK without prevResult succeeded")
			}
			if complete := strings.Contains(n.IP("link"), "clarion pod"); complete {
				del(p, 0)
			}
			readd(p)
			del(p, 0)
		}},
		{"ADD", "the sandbox dies, another pod's GC", func(p *pod, _ int) {
			p.destroy()
			// The kernel takes a moment to take the namespace down.
			nstest.Wait(t, 10*time.Second, "its cable is gone", func() bool { return !strings.Contains(n.IP("link"), "clp") })
			gc(p, 0)
		}},
		{"ADD with ports", "DEL", del},
		{"ADD with ports", "GC", gc},
		{"DEL with ports", "DEL again", del},
		{"DEL with ports", "GC", gc},
		{"DEL", "DEL again", del},
		{"DEL", "GC", gc},
		{"DEL", "DEL killed again at the same step, DEL", func(p *pod, step int) {
			n.killed(n.callFor("DEL", p), step)
			del(p, 0)
		}},
		{"DEL", "ADD of the same container, DEL", func(p *pod, _ int) {
			if strings.Contains(n.IP("link"), "clarion pod") {
				del(p, 0)
			}
			readd(p)
			del(p, 0)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.command+" is killed, then "+tt.then, func(t *testing.T) {
			n.t = t
			for step := 1; ; step++ {
				p := newPod(t, fmt.Sprintf("%s-%d", strings.ToLower(strings.ReplaceAll(tt.command, " ", "-")), step))
				verb, ports, _ := strings.Cut(tt.command, " with ")
				c := n.callFor(verb, p)
				if ports != "" {
					c.stdin = n.conf(`,"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80}]}`)
				}
				if verb == "DEL" {
					add := c
					add.command = "ADD"
					if _, err := n.exec(add); err != nil {
						t.Fatal(err)
					}
				}
				died := n.killed(c, step)
				tt.goOn(p, step)
				n.clean(fmt.Sprintf("%s killed at step %d, then %s,", tt.command, step, tt.then))
				p.destroy()
				if !died {
					if step < 4 {
						t.Fatalf("%s has only %d steps: the test kills nothing", tt.command, step-1)
					}
					t.Logf("%s was killed at %d steps", tt.command, step-1)
					return
				}
			}
		})
	}
}

func TestAReboot(t *testing.T) {
	n := bare(t)
	p, q := newPod(t, "before"), newPod(t, "before2")
	n.mustAdd(p)
	n.killed(n.callFor("ADD", q), 3)
	// The machine starts again: files are there, namespaces and links are not.
	p.destroy()
	q.destroy()
	nstest.Wait(t, 10*time.Second, "the links are gone", func() bool { return !strings.Contains(n.IP("link"), "clp") })
	n.Run("sh", "-c", "cd "+n.dir+" && mv boot-* boot-00000000-0000-4000-8000-000000000000")
	after := newPod(t, "after")
	first := n.mustAdd(after)
	if got := addressesOf(t, first)[0].String(); got != "10.244.1.2" {
		t.Errorf("got %s: the records of the boot before still hold addresses", got)
	}
	if err := n.del(p); err != nil { // the runtime comes back to its old sandboxes
		t.Fatal(err)
	}
	if err := n.check(after); err != nil {
		t.Errorf("the DEL of an old sandbox broke a new one: %v", err)
	}
	if err := n.del(after); err != nil {
		t.Fatal(err)
	}
	n.clean("the reboot")
}

func TestParallelADDsGetDifferentAddresses(t *testing.T) {
	n := bare(t)
	pods := make([]*pod, 200)
	for i := range pods {
		pods[i] = newPod(t, fmt.Sprint("c", i))
	}
	all := func(what string, do func(*pod) error) {
		t.Helper()
		var wg sync.WaitGroup
		for _, p := range pods {
			wg.Go(func() {
				if err := do(p); err != nil {
					t.Errorf("%s %s: %v", what, p.id, err)
				}
			})
		}
		wg.Wait()
	}
	var mu sync.Mutex
	held := map[string]string{}
	all("ADD", func(p *pod) error {
		r, err := n.add(p)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, ip := range r.IPs {
			a := ip.Address.IP.String()
			if other, taken := held[a]; taken {
				t.Errorf("%s and %s both have %s", p.id, other, a)
			}
			held[a] = p.id
		}
		return nil
	})
	if len(held) != 2*len(pods) {
		t.Errorf("%d addresses for %d pods", len(held), len(pods))
	}
	pods[7].must("ping", "-c1", "-W2", "169.254.1.1")
	all("DEL", n.del)
	n.clean("200 ADDs and DELs at once")
}
