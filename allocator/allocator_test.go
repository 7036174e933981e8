package allocator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/selector"
)

var (
	small = poolOf("small", "192.0.2.1-192.0.2.2", "2001:db8::1-2001:db8::2")
	other = poolOf("other", "198.51.100.1-198.51.100.2", "2001:db8:1::1-2001:db8:1::2")
)

func edit(r Request, changes ...func(*Request)) Request {
	for _, c := range changes {
		c(&r)
	}
	return r
}

func TestAllocator(t *testing.T) {
	udp80 := Port{cluster.UDP, 80}
	tcp443 := Port{cluster.TCP, 443}
	tests := []struct {
		name  string
		pools []Pool
		run   func(h *harness)
	}{
		// Choice
		{"the lowest free address of each family is given", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
			h.release("x/a")
			h.assign(h.req("x/c"), "192.0.2.1 2001:db8::1")
		}},
		{"the primary family comes first", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", func(r *Request) { slices.Reverse(r.Families) }), "2001:db8::1 192.0.2.1")
		}},
		{"pools are tried by priority, then by name", []Pool{
			small, other, with(poolOf("first", "203.0.113.1", "2001:db8:2::1"), func(p *Pool) { p.Priority = 1 }),
		}, func(h *harness) {
			h.assign(h.req("x/a"), "203.0.113.1 2001:db8:2::1")
			h.assign(h.req("x/b"), "198.51.100.1 2001:db8:1::1")
		}},
		{"both families come from one pool of a priority", []Pool{poolOf("a4", "192.0.2.1"), poolOf("b", "198.51.100.1", "2001:db8:1::1"), poolOf("c6", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a"), "198.51.100.1 2001:db8:1::1")
			h.assign(h.req("x/b"), "192.0.2.1 2001:db8::1")
		}},
		{"priority goes before one pool for both families", []Pool{
			with(poolOf("a4", "192.0.2.1"), func(p *Pool) { p.Priority = 1 }), poolOf("b", "198.51.100.1", "2001:db8:1::1"),
		}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8:1::1")
		}},
		{"the chosen family comes from the pool of the address asked for", []Pool{other, small}, func(h *harness) {
			h.assign(h.req("x/a", ask("192.0.2.2")), "192.0.2.2 2001:db8::1")
		}},
		{"a /64 and a /8 are as good as one address", []Pool{poolOf("big", "10.0.0.0/8", "2001:db8::/64")}, func(h *harness) {
			h.assign(h.req("x/a"), "10.0.0.0 2001:db8::1")
			h.assign(h.req("x/z", ask("10.255.255.255 2001:db8::ffff:ffff:ffff:ffff")), "10.255.255.255 2001:db8::ffff:ffff:ffff:ffff")
		}},
		{"a reserved half of a /64 is passed in one step", []Pool{poolOf("big", "10.0.0.0/8", "2001:db8::/64")}, func(h *harness) {
			h.a.SetReserved([]Reserved{{ranges("10.0.0.0/9")[0], "in the service CIDR"}, {ranges("2001:db8::/65")[0], "in the pod CIDR"}})
			h.assign(h.req("x/a"), "10.128.0.0 2001:db8:0:0:8000::")
		}},
		{"the subnet-router anycast address is given only when asked for", []Pool{poolOf("p", "192.0.2.1", "2001:db8::", "2001:db8:0:1::")}, func(h *harness) {
			h.assign(h.req("x/a"), "Exhausted OtherFamilyMissing")
			h.assign(h.req("x/b", ask("2001:db8::")), "192.0.2.1 2001:db8::")
		}},
		{"buggy addresses are skipped and can be asked for", []Pool{
			with(poolOf("p", "192.0.1.255-192.0.2.1", "192.0.2.254-192.0.3.1", "2001:db8::ff-2001:db8::100"), func(p *Pool) { p.AvoidBuggyIPs = true }),
		}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::ff")
			h.assign(h.req("x/b"), "192.0.2.254 2001:db8::100")
			h.assign(h.req("x/c", single4), "192.0.3.1")
			h.assign(h.req("x/d", single4), "Exhausted")
			h.assign(h.req("x/e", single4, ask("192.0.2.255")), "192.0.2.255")
		}},

		// Rules of pools
		{"autoAssign off gives only to those who ask", []Pool{with(small, func(p *Pool) { p.AutoAssign = false })}, func(h *harness) {
			h.assign(h.req("x/a"), "AutoAssignOff")
			h.assign(h.req("x/b", inPool("small")), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/c", ask("192.0.2.2 2001:db8::2")), "192.0.2.2 2001:db8::2")
		}},
		{"a pool for a namespace is for no other", []Pool{with(small, func(p *Pool) { p.Namespaces = []string{"x"} })}, func(h *harness) {
			h.assign(h.req("y/a"), "NamespaceNotAllowed")
			h.assign(h.req("y/b", inPool("small")), "NamespaceNotAllowed")
			h.assign(h.req("y/c", ask("2001:db8::1")), "NamespaceNotAllowed")
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
		}},
		{"a namespace is allowed by its name or by its labels", []Pool{with(small, func(p *Pool) {
			p.Namespaces, p.NamespaceSelector = []string{"x"}, &selector.Selector{MatchLabels: map[string]string{"team": "web"}}
		})}, func(h *harness) {
			team := func(r *Request) { r.NamespaceLabels = map[string]string{"team": "web"} }
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("y/a", team), "192.0.2.2 2001:db8::2")
			h.assign(h.req("y/b"), "NamespaceNotAllowed")
		}},
		{"a serviceSelector must match in addition", []Pool{with(small, func(p *Pool) {
			p.Namespaces, p.ServiceSelector = []string{"x"}, &selector.Selector{MatchLabels: map[string]string{"exposed": "true"}}
		}), poolOf("rest", "2001:db8:9::1")}, func(h *harness) {
			h.assign(h.req("x/a"), "NoFamily SelectorMismatch OtherFamilyMissing")
			h.assign(h.req("x/b", labels("exposed", "true")), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/c", prefer), "2001:db8:9::1")
		}},
		{"a pool that does not exist", []Pool{small}, func(h *harness) { h.assign(h.req("x/a", inPool("smal")), "NoSuchPool") }},
		{"no pool at all", nil, func(h *harness) {
			h.assign(h.req("x/a"), "NoPools")
			h.a.SetPools([]Pool{small})
			h.serves("x/a")
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
		}},

		// Asking
		{"several addresses of both families are asked for", []Pool{small, other}, func(h *harness) {
			h.assign(h.req("x/a", ask("192.0.2.2 198.51.100.1 2001:db8::2")), "192.0.2.2 198.51.100.1 2001:db8::2")
		}},
		{"of the addresses of a family all are given or none", []Pool{small, other}, func(h *harness) {
			h.assign(h.req("x/a", single6), "2001:db8:1::1")
			h.assign(h.req("x/b", prefer, ask("192.0.2.1 2001:db8:1::1 2001:db8::2")), "192.0.2.1 Taken")
		}},
		{"an address outside every pool", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", ask("203.0.113.9")), "OutsidePools OtherFamilyMissing")
			h.assign(h.req("x/b", ask("2001:db8:9::9")), "OutsidePools OtherFamilyMissing")
			h.assign(h.req("x/c"), "192.0.2.1 2001:db8::1")
		}},
		{"an address outside the pool asked for", []Pool{small, other}, func(h *harness) {
			h.assign(h.req("x/a", inPool("other"), ask("192.0.2.1 2001:db8::1")), "OutsidePool")
		}},
		{"an address of somebody else", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b", ask("192.0.2.1 2001:db8::1")), "Taken")
			h.holds("x/a", "192.0.2.1 2001:db8::1")
			h.release("x/a")
			h.serves("x/b")
			h.holds("x/b", "192.0.2.1 2001:db8::1")
		}},
		{"an address of a family that the Service has not", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", single6, ask("192.0.2.1 2001:db8::2")), "2001:db8::2 FamilyNotAsked")
		}},
		{"a Service that asks for another address is moved in one step", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			res := h.assign(edit(a, ask("2001:db8::2")), "192.0.2.1 2001:db8::2")
			if len(res.Added) != 1 || len(res.Removed) != 1 || res.Removed[0].Why != "the Service asks for 2001:db8::2 instead" {
				h.Errorf("%+v", res)
			}
			h.assign(h.req("x/b", ask("2001:db8::1")), "192.0.2.2 2001:db8::1")
		}},
		{"a Service that asks for what it cannot have keeps what it has", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
			h.assign(edit(a, ask("192.0.2.2 2001:db8::2")), "192.0.2.1 2001:db8::1 Taken")
			h.assign(edit(a, ask("192.0.2.2 203.0.113.1")), "192.0.2.1 2001:db8::1 Taken OutsidePools")
			h.assign(edit(a, inPool("nowhere")), "192.0.2.1 2001:db8::1 NoSuchPool")
			h.assign(a, "192.0.2.1 2001:db8::1")
		}},
		{"a Service that no longer asks keeps what it got", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(edit(a, ask("192.0.2.2 2001:db8::2")), "192.0.2.2 2001:db8::2")
			h.assign(a, "192.0.2.2 2001:db8::2")
		}},
		{"another pool is asked for on a living Service", []Pool{small, other}, func(h *harness) {
			a := h.req("x/a", inPool("small"))
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(edit(a, inPool("other")), "198.51.100.1 2001:db8:1::1")
			h.assign(edit(a, inPool("")), "198.51.100.1 2001:db8:1::1")
		}},

		// A2: edits of the pools
		{"taking a range out of the pools strands its Services", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.a.SetPools([]Pool{other})
			h.serves()
			res := h.assign(a, "192.0.2.1 2001:db8::1")
			if !res.Held[0].Stranded() || !res.Held[1].Stranded() || len(h.a.Stranded()) != 2 {
				h.Errorf("not stranded: %+v, %+v", res.Held, h.a.Stranded())
			}
			h.assign(edit(a, inPool("other")), "198.51.100.1 2001:db8:1::1")
			if len(h.a.Stranded()) != 0 {
				h.Errorf("still stranded: %+v", h.a.Stranded())
			}
			h.assign(h.req("x/b", ask("2001:db8::1")), "OutsidePools OtherFamilyMissing")
		}},
		{"ranges that change pools move nobody, also when the pool was asked for", []Pool{small, other}, func(h *harness) {
			a := h.req("x/a", inPool("small"))
			h.assign(a, "192.0.2.1 2001:db8::1")
			swapped := []Pool{with(small, func(p *Pool) { p.Name = "other" }), with(other, func(p *Pool) { p.Name = "small" })}
			h.a.SetPools(swapped)
			h.serves()
			h.assign(a, "192.0.2.1 2001:db8::1")
			h = h.lead(swapped, a)
			h.assign(a, "192.0.2.1 2001:db8::1")
		}},
		{"a pool that closes itself to a Service keeps serving it", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.a.SetPools([]Pool{with(small, func(p *Pool) { p.AutoAssign, p.Namespaces = false, []string{"y"} })})
			h.assign(a, "192.0.2.1 2001:db8::1")
		}},
		{"of overlapping pools the first by name has the addresses", []Pool{poolOf("b", "192.0.2.0/24", "2001:db8::/64"), poolOf("a", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			res := h.assign(h.req("x/a", ask("192.0.2.1 2001:db8::1")), "192.0.2.1 2001:db8::1")
			if res.Held[0].Pool != "a" || res.Held[1].Pool != "a" {
				h.Errorf("%+v", res.Held)
			}
		}},

		// A4: families
		{"RequireDualStack gets both families or none", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1-2001:db8::2")}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			res := h.assign(h.req("x/b"), "Exhausted OtherFamilyMissing")
			if !slices.Equal(res.Missing, []ipfam.Family{ipfam.V4, ipfam.V6}) {
				h.Errorf("missing %v", res.Missing)
			}
		}},
		{"PreferDualStack gets what there is and the rest later", []Pool{poolOf("p", "2001:db8::1-2001:db8::9")}, func(h *harness) {
			a := h.req("x/a", prefer)
			res := h.assign(a, "2001:db8::1")
			if !slices.Equal(res.Missing, []ipfam.Family{ipfam.V4}) || res.Refusals[0].Reason != NoFamily {
				h.Errorf("%+v", res)
			}
			h.a.SetPools([]Pool{poolOf("p", "2001:db8:1::1"), poolOf("q", "192.0.2.1")})
			h.serves("x/a")
			if res := h.assign(a, "192.0.2.1 2001:db8::1"); len(res.Added) != 1 || len(res.Removed) != 0 {
				h.Errorf("%+v", res)
			}
			if res := h.assign(a, "192.0.2.1 2001:db8::1"); len(res.Added) != 0 {
				h.Errorf("added again: %+v", res)
			}
		}},
		{"PreferDualStack without anything is refused", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b", prefer), "Exhausted")
		}},
		{"the policy of a living Service grows and shrinks", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(edit(a, single6), "2001:db8::1")
			h.assign(a, "192.0.2.1 2001:db8::1")
			res := h.assign(edit(a, single4), "192.0.2.1")
			if res.Removed[0].Why != "the Service no longer has the family IPv6" {
				h.Errorf("%+v", res.Removed)
			}
			h.assign(h.req("x/b", single6), "2001:db8::1")
		}},
		{"RequireDualStack on a living Service adds without taking", []Pool{poolOf("p", "2001:db8::1")}, func(h *harness) {
			a := h.req("x/a")
			h.assign(edit(a, single6), "2001:db8::1")
			h.assign(a, "2001:db8::1 NoFamily")
		}},
		{"a Service without families is left alone", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(edit(a, func(r *Request) { r.Families = nil }), "192.0.2.1 2001:db8::1")
		}},

		// A5: reserved
		{"reserved addresses are refused with the reason and skipped", []Pool{small}, func(h *harness) {
			h.a.SetReserved([]Reserved{{ranges("192.0.2.1")[0], "the address of node n1"}, {ranges("2001:db8::/127")[0], "in the pod CIDR 2001:db8::/127"}})
			res, err := h.a.Assign(h.req("x/a", ask("192.0.2.1 2001:db8::1")), h.now)
			if err == nil || !strings.Contains(err.Error(), "192.0.2.1 is the address of node n1") || !strings.Contains(err.Error(), "2001:db8::1 is in the pod CIDR") {
				h.Errorf("%v, %+v", err, res)
			}
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
		}},
		{"an address that turns out to be a node's stays and is told", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.a.SetReserved([]Reserved{{ranges("2001:db8::1")[0], "the address of node n1"}})
			if res := h.assign(a, "192.0.2.1 2001:db8::1"); res.Held[0].Reserved != "" || res.Held[1].Reserved != "the address of node n1" {
				h.Errorf("%+v", res.Held)
			}
			h.release("x/a")
			h.assign(h.req("x/b"), "192.0.2.1 2001:db8::2")
		}},
		{"what is no longer reserved is given", []Pool{small}, func(h *harness) {
			h.a.SetReserved([]Reserved{{ranges("192.0.2.0/24")[0], "in the service CIDR"}, {ranges("2001:db8::/64")[0], "in the service CIDR"}})
			h.assign(h.req("x/a"), "Exhausted")
			h.a.SetReserved(nil)
			h.serves("x/a")
			h.holds("x/a", "192.0.2.1 2001:db8::1")
		}},

		// Sharing
		{"Services with one key share as long as ports differ", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", share("k")), "192.0.2.1 2001:db8::1")
			h.assign(h.req("y/b", share("k"), ports(tcp443, udp80)), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/c", share("k"), ports(tcp443)), "192.0.2.2 2001:db8::2")
			h.assign(h.req("x/d", share("k"), ports(Port{cluster.TCP, 22})), "192.0.2.1 2001:db8::1")
			if got := h.a.Owners(netip.MustParseAddr("2001:db8::1")); !slices.Equal(got, []cluster.Key{"x/a", "x/d", "y/b"}) {
				h.Errorf("owners %v", got)
			}
		}},
		{"sharing is refused by key, port and policy", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", share("k")), "192.0.2.1 2001:db8::1")
			want := ask("192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b", want, ports(tcp443)), "Taken")
			h.assign(h.req("x/c", want, ports(tcp443), share("l")), "ShareKeyDiffers")
			h.assign(h.req("x/d", want, share("k")), "PortTaken")
			h.assign(h.req("x/e", want, share("k"), ports(tcp443), local, selects("app=db")), "PolicyDiffers")
			h.assign(h.req("x/f", want, share("k"), ports(tcp443), local), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/g", want, share("k"), ports(udp80), selects("app=db")), "PolicyDiffers")
		}},
		{"who ends the right to share by an edit moves, the others stay", []Pool{small}, func(h *harness) {
			a, b := h.req("x/a", share("k")), h.req("x/b", share("k"), ports(tcp443))
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(b, "192.0.2.1 2001:db8::1")
			res := h.assign(edit(a, ports(tcp443)), "192.0.2.2 2001:db8::2")
			if len(res.Removed) != 2 || !strings.Contains(res.Removed[1].Why, "it may not share the address any more: 2001:db8::1 is shared, and its port TCP/443 belongs to x/b") {
				h.Errorf("%+v", res.Removed)
			}
			h.holds("x/b", "192.0.2.1 2001:db8::1")
		}},
		{"an edit of a sharer lets one in that waits", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			a := h.req("x/a", share("k"))
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b", share("k")), "Exhausted")
			h.assign(edit(a, ports(tcp443)), "192.0.2.1 2001:db8::1")
			h.serves("x/b")
			h.holds("x/b", "192.0.2.1 2001:db8::1")
		}},
		{"a shared address is free when the last one goes", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a", share("k")), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b", share("k"), ports(tcp443)), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/c"), "Exhausted")
			h.release("x/a")
			h.serves()
			h.release("x/b")
			h.serves("x/c")
		}},

		// Release, memory, rest
		{"an address is freed once", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			if got := h.a.Release("x/a", "", h.now); len(got) != 2 {
				h.Errorf("freed %v", got)
			}
			h.assign(h.req("x/b"), "192.0.2.1 2001:db8::1")
			if got := h.a.Release("x/a", "", h.now); got != nil {
				h.Errorf("freed %v again", got)
			}
			h.holds("x/b", "192.0.2.1 2001:db8::1")
		}},
		{"a late release of an old Service leaves the new one of its name alone", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", func(r *Request) { r.UID = "new" }), "192.0.2.1 2001:db8::1")
			h.a.Release("x/a", "old", h.now)
			h.holds("x/a", "192.0.2.1 2001:db8::1")
		}},
		{"a Service created again gets its old addresses back", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
			h.release("x/a")
			h.release("x/b")
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
			h.release("x/b")
			h.assign(h.req("x/c", ask("2001:db8::2")), "192.0.2.1 2001:db8::2")
			h.assign(h.req("x/b"), "192.0.2.2 2001:db8::1")
		}},
		{"a Service whose end was missed is another one under its name", []Pool{small}, func(h *harness) {
			h.assign(h.req("x/a", func(r *Request) { r.UID = "1" }), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/a", single6, func(r *Request) { r.UID = "2" }), "2001:db8::1")
			h.assign(h.req("x/b", single4), "192.0.2.1")
		}},
		{"memory and rests go over to a new leader", []Pool{small}, func(h *harness) {
			h.a.SetRestTime(time.Minute)
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.release("x/a")
			next := h.lead([]Pool{small})
			for key, had := range h.a.Remembered() {
				next.a.Remember(key, had)
			}
			for _, r := range h.a.Rests(h.now) {
				next.a.Rest(r)
			}
			next.assign(next.req("x/b"), "192.0.2.2 2001:db8::2")
			next.assign(next.req("x/a"), "192.0.2.1 2001:db8::1")
		}},
		{"a freed address rests before another Service gets it", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.a.SetRestTime(time.Minute)
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.release("x/a")
			h.assign(h.req("x/b"), "Exhausted")
			h.assign(h.req("x/c", ask("2001:db8::1")), "Resting Exhausted")
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.release("x/a")
			h.serves()
			if at, ok := h.a.Next(); !ok || !at.Equal(h.now.Add(time.Minute)) {
				h.Errorf("next is %v, %v", at, ok)
			}
			h.now = h.now.Add(time.Minute)
			h.serves("x/b")
			if _, ok := h.a.Next(); ok {
				h.Error("something still rests")
			}
		}},

		// Waiting
		{"who waits longest is served first", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			old, young := h.req("x/old"), h.req("x/young")
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(young, "Exhausted")
			h.assign(old, "Exhausted")
			if w := h.a.Waiting(); len(w) != 2 || w[0].Key != "x/old" || len(w[0].Refusals) != 2 {
				h.Errorf("waiting: %+v", w)
			}
			h.release("x/a")
			h.assign(h.req("x/new"), "Exhausted") // it comes just then, and may not overtake
			h.serves("x/old")
			h.release("x/old")
			h.serves("x/young")
			h.serves()
		}},
		{"a Service that waits and is deleted waits no more", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b"), "Exhausted")
			h.release("x/b")
			h.release("x/a")
			h.serves()
			if w := h.a.Waiting(); len(w) != 0 {
				h.Errorf("waiting: %+v", w)
			}
		}},
		{"who was served and deleted is not told", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.a.SetRestTime(time.Second)
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			h.assign(h.req("x/b"), "Exhausted")
			h.release("x/a")
			h.now = h.now.Add(time.Second)
			h.assign(h.req("x/c"), "Exhausted") // serves x/b
			h.holds("x/b", "192.0.2.1 2001:db8::1")
			h.release("x/b")
			h.serves()
		}},

		// Quarantine
		{"an address of a foreign host is exchanged", []Pool{small}, func(h *harness) {
			a := h.req("x/a")
			h.assign(a, "192.0.2.1 2001:db8::1")
			res, err := h.a.Exchange("x/a", netip.MustParseAddr("2001:db8::1"), h.now.Add(time.Minute), "MAC 02:00:00:00:00:01", h.now)
			h.compare("x/a", res, err, "192.0.2.1 2001:db8::2")
			if len(res.Removed) != 1 || res.Removed[0].Why != "a foreign host uses it: MAC 02:00:00:00:00:01" {
				h.Errorf("%+v", res.Removed)
			}
			h.assign(h.req("x/b", single6), "Exhausted")
			h.assign(h.req("x/c", single6, ask("2001:db8::1")), "Quarantined")
			h.now = h.now.Add(time.Minute)
			h.serves("x/b")
		}},
		{"an address that is pinned, or the last one, is not exchanged", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a", ask("2001:db8::1")), "192.0.2.1 2001:db8::1")
			for addr, want := range map[string]string{"2001:db8::1": "Quarantined", "192.0.2.1": "Quarantined Exhausted"} {
				res, err := h.a.Exchange("x/a", netip.MustParseAddr(addr), h.now.Add(time.Minute), "MAC 02:00:00:00:00:01", h.now)
				h.compare("x/a", res, err, "192.0.2.1 2001:db8::1 "+want)
			}
			h.release("x/a")
			h.assign(h.req("x/b"), "Exhausted")
			h.now = h.now.Add(time.Minute)
			h.serves("x/b")
		}},
		{"a free address is put into quarantine", []Pool{small}, func(h *harness) {
			h.a.Quarantine(netip.MustParseAddr("2001:db8::1"), h.now.Add(time.Minute), "MAC 02:00:00:00:00:01")
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::2")
			if r := h.a.Rests(h.now); len(r) != 1 || r[0].Why == "" {
				h.Errorf("%+v", r)
			}
		}},

		// Restore
		{"a new leader finds what the old one gave", []Pool{small}, func(h *harness) {
			a, b := h.req("x/a"), h.req("x/b", single6)
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(b, "2001:db8::2")
			next := h.lead([]Pool{small}, b, a)
			next.assign(next.req("x/c", prefer), "192.0.2.2")
			next.assign(a, "192.0.2.1 2001:db8::1")
			next.assign(b, "2001:db8::2")
		}},
		{"anything is restored, whatever the pools say", []Pool{small}, func(h *harness) {
			h.a.SetReserved([]Reserved{{ranges("2001:db8::2")[0], "the address of node n1"}})
			a := h.req("x/a")
			h.a.Restore(a, addrs("203.0.113.7 2001:db8::2"))
			res := h.assign(a, "203.0.113.7 2001:db8::2")
			if !res.Held[0].Stranded() || res.Held[1].Reserved == "" {
				h.Errorf("%+v", res.Held)
			}
		}},
		{"the elder keeps what was given twice, in whatever order they are restored", []Pool{small}, func(h *harness) {
			elder, younger := h.req("x/z"), h.req("x/a")
			for _, order := range [][]Request{{elder, younger}, {younger, elder}} {
				h := h.lead([]Pool{small})
				for _, r := range order {
					h.a.Restore(r, addrs("192.0.2.1 2001:db8::1"))
				}
				want := []Conflict{{netip.MustParseAddr("192.0.2.1"), "x/z", "x/a"}, {netip.MustParseAddr("2001:db8::1"), "x/z", "x/a"}}
				if got := h.a.Conflicts(); !slices.Equal(got, want) {
					h.Errorf("conflicts %v", got)
				}
				h.holds("x/z", "192.0.2.1 2001:db8::1")
				h.holds("x/a", "")
				res := h.assign(younger, "192.0.2.2 2001:db8::2")
				if len(res.Removed) != 2 || !strings.HasPrefix(res.Removed[0].Why, "it was given twice: 192.0.2.1 is held by x/z") {
					h.Errorf("%+v", res.Removed)
				}
				h.assign(elder, "192.0.2.1 2001:db8::1")
				if got := h.a.Conflicts(); len(got) > 0 {
					h.Errorf("conflicts are left: %v", got)
				}
			}
		}},
		{"a Service that is deleted takes its claim with it", []Pool{small}, func(h *harness) {
			elder, younger := h.req("x/z"), h.req("x/a")
			h.a.Restore(elder, addrs("2001:db8::1"))
			h.a.Restore(younger, addrs("2001:db8::1 192.0.2.2"))
			h.release("x/a")
			if got := h.a.Conflicts(); len(got) > 0 {
				h.Errorf("conflicts are left: %v", got)
			}
			h.assign(h.req("x/b", single4, ask("192.0.2.2")), "192.0.2.2")
			h.assign(elder, "192.0.2.1 2001:db8::1")
		}},
		{"a restored Service that may share with the elder after an edit holds the address", []Pool{small}, func(h *harness) {
			elder, younger := h.req("x/a", share("k")), h.req("x/b", share("k"))
			h.a.Restore(elder, addrs("192.0.2.1 2001:db8::1"))
			h.a.Restore(younger, addrs("192.0.2.1 2001:db8::1"))
			h.assign(edit(younger, ports(tcp443)), "192.0.2.1 2001:db8::1")
			h.holds("x/a", "192.0.2.1 2001:db8::1")
		}},
		{"the status of a Service that is gone is not its successor's", []Pool{small}, func(h *harness) {
			h.a.Restore(h.req("x/a", func(r *Request) { r.UID = "old" }), addrs("192.0.2.2 2001:db8::2"))
			h.a.Restore(h.req("x/a", func(r *Request) { r.UID = "new" }), addrs("2001:db8::1"))
			h.holds("x/a", "2001:db8::1")
		}},
		{"what is told without a UID belongs to the Service of the name", []Pool{small}, func(h *harness) {
			h.a.Restore(h.req("x/a", func(r *Request) { r.UID = "" }), addrs("192.0.2.2"))
			h.a.Restore(h.req("x/a"), addrs("2001:db8::2"))
			h.holds("x/a", "192.0.2.2 2001:db8::2")
		}},
		{"a Service turns out to be older than was known", []Pool{poolOf("p", "192.0.2.1", "2001:db8::1")}, func(h *harness) {
			h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
			b, c := h.req("x/b"), h.req("x/c")
			h.assign(b, "Exhausted")
			h.assign(c, "Exhausted")
			h.assign(edit(c, func(r *Request) { r.Created = time.Time{} }), "Exhausted")
			h.release("x/a")
			h.serves("x/c")
		}},
		{"the younger has the address when the elder goes first", []Pool{small}, func(h *harness) {
			elder, younger := h.req("x/z"), h.req("x/a")
			h.a.Restore(younger, addrs("2001:db8::1"))
			h.a.Restore(elder, addrs("2001:db8::1"))
			h.release("x/z")
			h.assign(younger, "192.0.2.1 2001:db8::1")
		}},
		{"what was shared is shared after a change of leader", []Pool{small}, func(h *harness) {
			a, b := h.req("x/a", share("k")), h.req("x/b", share("k"), ports(tcp443))
			h.assign(a, "192.0.2.1 2001:db8::1")
			h.assign(b, "192.0.2.1 2001:db8::1")
			next := h.lead([]Pool{small}, b, a)
			if c := next.a.Conflicts(); len(c) > 0 {
				h.Errorf("conflicts %v", c)
			}
			next.assign(a, "192.0.2.1 2001:db8::1")
			next.assign(b, "192.0.2.1 2001:db8::1")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(newHarness(t, tt.pools...)) })
	}
}

func TestRefusedSaysWhatWasTriedAndWhy(t *testing.T) {
	h := newHarness(t, small, with(other, func(p *Pool) { p.AutoAssign = false }))
	h.assign(h.req("x/a"), "192.0.2.1 2001:db8::1")
	h.assign(h.req("x/b"), "192.0.2.2 2001:db8::2")
	_, err := h.a.Assign(h.req("x/c", single6), h.now)
	want := `x/c has no IPv6 address: the pool "other" is for Services that ask for it (autoAssign is off): set the annotation clarion.dev/pool: other; ` +
		`the pool "small" has no free IPv6 address (2 of 2 in use): add addresses to it or delete a Service`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = h.a.Assign(h.req("x/a", ask("2001:db8::2")), h.now)
	want = `x/a keeps 192.0.2.1, 2001:db8::1 and does not get what it asks for: 2001:db8::2 is held by x/b: ask for another address, or give both Services the same clarion.dev/share`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	var many []Pool
	for i := range 20 {
		many = append(many, with(poolOf(fmt.Sprint("p", i), "2001:db8::1"), func(p *Pool) { p.AutoAssign = false }))
	}
	h.a.SetPools(many)
	if _, err = h.a.Assign(h.req("x/d"), h.now); err == nil || !strings.HasPrefix(err.Error(), "x/d has no address: ") || !strings.HasSuffix(err.Error(), "; and 35 more reasons") {
		t.Errorf("%v", err)
	}
}

func TestExhaustedSaysWhatTheRestIs(t *testing.T) {
	h := newHarness(t, poolOf("p", "2001:db8::", "2001:db8:0:1::7"))
	h.assign(h.req("x/a", single6), "2001:db8:0:1::7")
	_, err := h.a.Assign(h.req("x/b", single6), h.now)
	if want := "(1 of 2 in use, the others reserved or given only when asked for by address)"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestUsage(t *testing.T) {
	h := newHarness(t, with(poolOf("p", "192.0.2.0/24", "2001:db8::/64"), func(p *Pool) { p.AvoidBuggyIPs = true }))
	h.a.SetRestTime(time.Minute)
	h.a.SetReserved([]Reserved{{ranges("192.0.2.252-192.0.2.255")[0], "in the pod CIDR"}, {ranges("2001:db8::-2001:db8::ff")[0], "in the pod CIDR"}})
	h.assign(h.req("x/a", share("k")), "192.0.2.1 2001:db8::100")
	h.assign(h.req("x/b", share("k"), ports(Port{cluster.TCP, 443})), "192.0.2.1 2001:db8::100")
	h.assign(h.req("x/c", ask("192.0.2.0")), "192.0.2.0 2001:db8::101")
	h.assign(h.req("x/d"), "192.0.2.2 2001:db8::102")
	h.release("x/d")
	var got []string
	for _, u := range h.a.Usage(h.now) {
		got = append(got, fmt.Sprintf("%s %v: %v total, %v unusable, %v free, %d used, %d shared, %d resting", u.Pool, u.Family, u.Total, u.Unusable, u.Free, u.Used, u.Shared, u.Resting))
	}
	want := []string{
		"p IPv4: 256 total, 4 unusable, 249 free, 2 used, 1 shared, 1 resting",
		"p IPv6: 18446744073709551616 total, 256 unusable, 18446744073709551357 free, 2 used, 1 shared, 1 resting",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestPlanSaysWhatAnEditWouldDoAndDoesNothing(t *testing.T) {
	h := newHarness(t, small, other)
	h.assign(h.req("x/a"), "198.51.100.1 2001:db8:1::1")
	h.assign(h.req("x/b", inPool("small")), "192.0.2.1 2001:db8::1")
	h.assign(h.req("x/c", single6, ask("2001:db8:9::9")), "OutsidePools")
	h.assign(h.req("x/d", inPool("later")), "NoSuchPool")
	h.a.Restore(h.req("x/e"), addrs("2001:db8:8::8"))
	before := h.a.Holdings()
	got := h.a.Plan([]Pool{with(small, func(p *Pool) { p.Name = "tiny" }), poolOf("new", "2001:db8:8::/64", "2001:db8:9::/64")}, h.now)
	change := func(key cluster.Key, addr, from, to string) Change {
		return Change{key, netip.MustParseAddr(addr), from, to}
	}
	if len(got.Waiting) != 1 || got.Waiting[0].Key != "x/d" {
		t.Errorf("waiting: %+v", got.Waiting)
	}
	got.Waiting = nil
	want := Diff{
		Keep:     []Change{change("x/b", "192.0.2.1", "small", "tiny"), change("x/b", "2001:db8::1", "small", "tiny")},
		Stranded: []Change{change("x/a", "198.51.100.1", "other", ""), change("x/a", "2001:db8:1::1", "other", "")},
		Adopted:  []Change{change("x/e", "2001:db8:8::8", "", "new")},
		Served:   []Change{change("x/c", "2001:db8:9::9", "", "new")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if after := h.a.Holdings(); !reflect.DeepEqual(after, before) || len(h.a.Serve(h.now)) > 0 {
		t.Errorf("the plan was carried out: %v", after)
	}
}

// The same history ends the same, whatever order maps are walked in.
func TestTheSameHistoryEndsTheSame(t *testing.T) {
	end := func() map[cluster.Key][]Held {
		m := newModel(t, 1)
		for i := range 300 {
			m.step(i)
		}
		return m.a.Holdings()
	}
	first := end()
	for range 5 {
		if again := end(); !reflect.DeepEqual(again, first) {
			t.Fatalf("one run ended in %v, another in %v", first, again)
		}
	}
}

// Many Services on a large pool, given back in any order: always the lowest.
func TestLowestFreeIsAlwaysTheLowest(t *testing.T) {
	h := newHarness(t, poolOf("p", "192.0.2.0/25", "2001:db8::1-2001:db8::80"))
	r := rand.New(rand.NewPCG(5, 6))
	taken := map[int]cluster.Key{} // by number above the first
	v4, v6 := netip.MustParseAddr("192.0.2.0"), netip.MustParseAddr("2001:db8::1")
	nth := func(a netip.Addr, n int) netip.Addr {
		for range n {
			a = a.Next()
		}
		return a
	}
	for i := range 3000 {
		if n := r.IntN(128); taken[n] != "" {
			h.release(taken[n])
			delete(taken, n)
			continue
		}
		lowest := 0
		for taken[lowest] != "" {
			lowest++
		}
		key := cluster.Key(fmt.Sprint("x/", i))
		h.assign(h.req(key), fmt.Sprint(nth(v4, lowest), " ", nth(v6, lowest)))
		taken[lowest] = key
	}
}

// Workers call in at once and hold, at any moment, addresses of their own.
func TestManyWorkers(t *testing.T) {
	a := New()
	a.SetPools([]Pool{poolOf("p", "192.0.2.1-192.0.2.4", "2001:db8::1-2001:db8::4")})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				r := benchRequest(w)
				res, err := a.Assign(r, time.Unix(int64(i), 0))
				for _, addr := range res.Addresses() {
					if owners := a.Owners(addr); !slices.Equal(owners, []cluster.Key{r.Key}) {
						t.Errorf("%v was given to %s (%v) and belongs to %v", addr, r.Key, err, owners)
					}
				}
				a.Serve(time.Unix(int64(i), 0))
				a.Release(r.Key, r.UID, time.Unix(int64(i), 0))
			}
		})
	}
	wg.Wait()
	for _, u := range a.Usage(time.Unix(0, 0)) {
		if u.Used != 0 {
			t.Errorf("all went, and %+v", u)
		}
	}
}

// The memory of names does not grow for ever, whatever comes and goes.
func TestMemoryIsBounded(t *testing.T) {
	h := newHarness(t, poolOf("p", "192.0.2.1", "2001:db8::1"))
	h.assign(h.req("x/stays", share("k"), ports(Port{cluster.TCP, 1})), "192.0.2.1 2001:db8::1")
	for i := range 1000 {
		key := cluster.Key(fmt.Sprint("x/", i))
		h.assign(h.req(key, share("k")), "192.0.2.1 2001:db8::1")
		h.release(key)
	}
	if got := len(h.a.Remembered()); got == 0 || got > mostNames {
		t.Errorf("%d names are remembered for one address", got)
	}
	s := h.a.s
	if len(s.topics) > 0 || len(s.dirty) > 0 || len(s.rests) > 0 || len(s.services) != 1 || len(s.shares) != 1 {
		t.Errorf("left over: %d topics, %d dirty, %d rests, %d services, %d keys", len(s.topics), len(s.dirty), len(s.rests), len(s.services), len(s.shares))
	}
}
