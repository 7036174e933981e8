package allocator

import (
	"fmt"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
)

func benchRequest(i int) Request {
	return Request{
		Key: cluster.Key(fmt.Sprintf("shop/web-%d", i)), UID: fmt.Sprint(i), Created: time.Unix(int64(i), 0), Namespace: "shop",
		Families: []ipfam.Family{ipfam.V4, ipfam.V6}, Policy: RequireDualStack, Ports: []Port{{cluster.TCP, 80}, {cluster.TCP, 443}},
	}
}

func filled(b *testing.B, n int, pools ...Pool) *Allocator {
	a := New()
	a.SetPools(pools)
	for i := range n {
		if _, err := a.Assign(benchRequest(i), time.Unix(0, 0)); err != nil {
			b.Fatal(err)
		}
	}
	return a
}

// BenchmarkAssign gives one dual-stack Service its addresses and takes them
// back, in an allocator that has given N pairs already.
func BenchmarkAssign(b *testing.B) {
	for _, n := range []int{100, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := filled(b, n, poolOf("p", "10.0.0.0/8", "2001:db8::/64"))
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				a.Release(cluster.Key(fmt.Sprintf("shop/web-%d", i%n)), "", time.Unix(0, 0))
				if _, err := a.Assign(benchRequest(i%n), time.Unix(0, 0)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAssignAgain is what an event costs that changes nothing.
func BenchmarkAssignAgain(b *testing.B) {
	a := filled(b, 10_000, poolOf("p", "10.0.0.0/8", "2001:db8::/64"))
	r := benchRequest(7)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Assign(r, time.Unix(0, 0)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill gives 50,000 Services their first addresses out of 1,000 pools,
// one for each namespace.
func BenchmarkFill(b *testing.B) {
	var pools []Pool
	for i := range 1000 {
		pools = append(pools, Pool{Name: fmt.Sprint("p", i), AutoAssign: true, Namespaces: []string{fmt.Sprint("ns", i)},
			Addresses: iprange.SetOf(ranges(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), fmt.Sprintf("2001:db8:0:%x::/64", i))...)})
	}
	for b.Loop() {
		a := New()
		a.SetPools(pools)
		for i := range 50_000 {
			r := benchRequest(i)
			r.Namespace = fmt.Sprint("ns", i%1000)
			if _, err := a.Assign(r, time.Unix(0, 0)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkServe frees an address for which 10,000 Services wait.
func BenchmarkServe(b *testing.B) {
	a := filled(b, 100, poolOf("p", "192.0.2.1-192.0.2.100", "2001:db8::/64"))
	for i := range 10_000 {
		if _, err := a.Assign(benchRequest(1000+i), time.Unix(0, 0)); err == nil {
			b.Fatal("the pool is larger than meant")
		}
	}
	holder := 0
	b.ReportAllocs()
	for b.Loop() {
		a.Release(benchRequest(holder).Key, "", time.Unix(0, 0))
		served := a.Serve(time.Unix(0, 0))
		if len(served) != 1 {
			b.Fatal(served)
		}
		if _, err := a.Assign(benchRequest(holder), time.Unix(0, 0)); err == nil {
			b.Fatal("who came last was served")
		}
		if _, err := fmt.Sscanf(string(served[0]), "shop/web-%d", &holder); err != nil {
			b.Fatal(err)
		}
	}
}
