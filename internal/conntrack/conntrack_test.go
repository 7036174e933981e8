package conntrack

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// Two frontends lead to two endpoints each, by address translation on a router.
// Of the connections there, those of one frontend to one endpoint go.
func TestDeleteTakesTheFlowAndNothingElse(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			h := nstest.NewHost(t, "h")
			h.Addr("lo", "192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128")
			nstest.Tool(t, "nft")
			h.Run("nft", `add table inet t; add chain inet t out { type nat hook output priority -100; };
				add rule inet t out ip daddr 10.0.0.1 udp dport {1, 2} dnat ip to udp dport map { 1 : 192.0.2.1, 2 : 192.0.2.2 };
				add rule inet t out ip daddr 10.0.0.2 udp dport {1, 2} dnat ip to udp dport map { 1 : 192.0.2.1, 2 : 192.0.2.2 };
				add rule inet t out ip6 daddr fd00::1 udp dport {1, 2} dnat ip6 to udp dport map { 1 : 2001:db8::1, 2 : 2001:db8::2 };
				add rule inet t out ip6 daddr fd00::2 udp dport 1 dnat ip6 to 2001:db8::2`)
			h.IP("route add default dev lo")
			h.IP("-6 route add default dev lo")
			// An IPv6 address is taken into use by a worker of the kernel, a little later.
			nstest.Wait(t, 10*time.Second, "the addresses are usable", func() bool {
				routes := h.IP("-6 route show table local")
				return strings.Contains(routes, "2001:db8::1") && strings.Contains(routes, "2001:db8::2")
			})
			var c *Conn
			var err error
			h.Do(func() { c, err = Open() })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.single = single
			send := func(network, to string, n int) {
				for range n {
					h.Do(func() {
						conn, err := net.Dial(network, to)
						if err != nil {
							t.Fatal(err)
						}
						defer conn.Close()
						if _, err := conn.Write([]byte("x")); err != nil {
							t.Fatal(err)
						}
					})
				}
			}
			send("udp", "10.0.0.1:1", 5)
			send("udp", "10.0.0.1:2", 3)
			send("udp", "10.0.0.2:1", 2)
			send("udp", "[fd00::1]:1", 4)
			send("udp", "[fd00::1]:2", 1)
			send("udp", "[fd00::2]:1", 2)
			send("udp", "192.0.2.1:7", 1)
			left := func() (out []string) {
				for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
					if err := c.Each(f, func(e Entry) { out = append(out, fmt.Sprintf("%s>%s", e.To, e.From)) }); err != nil {
						t.Fatal(err)
					}
				}
				slices.Sort(out)
				return out
			}
			count := func(list []string) map[string]int {
				m := map[string]int{}
				for _, s := range list {
					m[s]++
				}
				return m
			}
			want := map[string]int{
				"10.0.0.1:1>192.0.2.1:1": 5, "10.0.0.1:2>192.0.2.2:2": 3, "10.0.0.2:1>192.0.2.1:1": 2,
				"[fd00::1]:1>[2001:db8::1]:1": 4, "[fd00::1]:2>[2001:db8::2]:2": 1,
				"[fd00::2]:1>[2001:db8::2]:1": 2, "192.0.2.1:7>192.0.2.1:7": 1,
			}
			if got := count(left()); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("before: %v, want %v", got, want)
			}
			for _, del := range []struct{ to, from string }{
				{"10.0.0.1:1", "192.0.2.1:1"}, {"[fd00::1]:1", "[2001:db8::1]:1"}, {"192.0.2.1:7", "192.0.2.1:7"},
				{"10.9.9.9:1", "192.0.2.1:1"}, // there is none
			} {
				if err := c.Delete(Flow{cluster.UDP, netip.MustParseAddrPort(del.to), netip.MustParseAddrPort(del.from)}); err != nil {
					t.Fatal(err)
				}
				if del.to != "10.9.9.9:1" {
					delete(want, del.to+">"+del.from)
				}
				if got := count(left()); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("after %v: %v, want %v", del, got, want)
				}
			}
			if c.single != single {
				t.Logf("this kernel deletes no connections by a filter")
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	var e nfnl.Encoder
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	tuple(&e, ctaOrig, 17, a, b)
	tuple(&e, ctaReply, 17, b, a)
	f.Add(e.B)
	if got, ok := decode(e.B, ipfam.V4); !ok || got.Client != a || got.To != b || got.From != b {
		f.Fatalf("decoded %+v, %v", got, ok)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		decode(b, ipfam.V4)
		decode(b, ipfam.V6)
	})
}
