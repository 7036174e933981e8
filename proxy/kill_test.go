package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
)

var errKilled = errors.New("killed")

// A killer lets so many transactions pass and then none. Its transactions are
// as small as they can be, so that there are many instants at which to kill.
type killer struct {
	*nft.Conn
	left int
}

func (k *killer) Room() int { return 0 }

func (k *killer) Commit(b *nft.Batch) error {
	if k.left == 0 {
		return errKilled
	}
	k.left--
	return k.Conn.Commit(b)
}

// From any state to any other, killed after any number of transactions: the
// table has no hole and nobody is sent where neither state would send him, and
// the next process brings it to the end.
func TestEveryPrefixOfAWriteSequenceIsRight(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	killed := 0
	l := newBareLab(t)
	for range rounds {
		from, to := randomState(r), randomState(r)
		for k := 0; ; k++ {
			l.restart()
			l.set(values(from)...)
			before := l.kernelMirror(t)
			l.engine.kernel = &killer{l.engine.conn, k}
			changed := map[cluster.Key]*cluster.Service{}
			for key := range from {
				changed[key] = nil
			}
			maps.Copy(changed, to)
			err := l.engine.change(changed, l.now)
			if err == nil {
				// The removals that follow may be killed as well.
				l.now = l.now.Add(grace)
				_, err = l.engine.sweep(l.now)
			}
			at := l.kernelMirror(t)
			l.whole(t, from, to, before, at, k)
			if err == nil {
				break
			}
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			killed++
			l.restart()
			l.set(values(to)...)
			l.checkKernel(t)
		}
	}
	t.Logf("killed %d times", killed)
}

func randomState(r *rand.Rand) map[cluster.Key]*cluster.Service {
	out := map[cluster.Key]*cluster.Service{}
	for range r.IntN(3) {
		s := randomService(r, r.IntN(2))
		out[s.Key] = s
	}
	return out
}

func values(m map[cluster.Key]*cluster.Service) (out []*cluster.Service) {
	for _, s := range m {
		out = append(out, s)
	}
	return out
}

var endpointText = regexp.MustCompile(`[0-9a-f.:\[\]]+:8080`)

// whole fails when a front of a table has a hole, or an endpoint that neither
// of two states gives it.
func (l *lab) whole(t *testing.T, from, to map[cluster.Key]*cluster.Service, before, at mirror, k int) {
	t.Helper()
	allowed := map[Front]string{}
	for _, state := range []map[cluster.Key]*cluster.Service{from, to} {
		for _, s := range state {
			for _, x := range PlanService(s, l.engine.view).Fronts {
				allowed[x.Front] += fmt.Sprint(x.Outer.Endpoints)
				if x.Inner != nil {
					allowed[x.Front] += fmt.Sprint(x.Inner.Endpoints)
				}
			}
		}
	}
	for _, fam := range families {
		for key := range at[mapClass(fam)] {
			f := frontOf(key, fam)
			text := describe(at, f, mapClass(fam), map[entry]bool{})
			if regexp.MustCompile("EMPTY|NO CLASS|WITHOUT").MatchString(text) {
				t.Fatalf("after %d transactions %v is %s; it was %s", k, f, text, describe(before, f, mapClass(fam), map[entry]bool{}))
			}
			if _, ok := allowed[f]; !ok {
				t.Fatalf("after %d transactions there is %v", k, f)
			}
			for _, ep := range endpointText.FindAllString(text, -1) {
				if !strings.Contains(allowed[f], ep) {
					t.Fatalf("after %d transactions %v leads to %s, which neither state does", k, f, ep)
				}
			}
		}
	}
}

// The number of slots goes up and down, as often up as down, while new flows
// come all the time. None may find its slot empty.
func TestNoFlowMeetsAnEmptySlotWhileEndpointsComeAndGo(t *testing.T) {
	l := newLab(t)
	l.a.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1")
	l.set(service("svc", "a1", "b1"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	sent := 0
	wg.Go(func() { l.pods["a2"].Do(func() { sent = newFlows(ctx, t) }) })
	flips := 0
	length := 4 * time.Second
	if testing.Short() {
		length = time.Second
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		for range 20 {
			for _, pods := range [][]string{{"a1", "a2", "b1"}, {"a1", "b1"}} {
				s := service("svc", pods...)
				if err := l.engine.change(map[cluster.Key]*cluster.Service{s.Key: s}, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			flips++
		}
		// Now and then the slot is really taken away, so that the way up begins
		// without it.
		for next := time.Now(); !next.IsZero(); {
			var err error
			if next, err = l.engine.sweep(time.Now()); err != nil {
				t.Fatal(err)
			}
			if !next.IsZero() {
				<-time.After(time.Until(next))
			}
		}
	}
	cancel()
	wg.Wait()
	missed, lost := counters(l)
	t.Logf("%d flips up and as many down, %d flows, %d missed a slot, %d found none", flips, sent, missed, lost)
	if missed > 0 || lost > 0 || sent == 0 {
		t.Errorf("%d flows missed a slot, %d found none", missed, lost)
	}
}

// counters sums up what the class chains count.
func counters(l *lab) (missed, lost int) {
	for _, line := range strings.Split(l.a.Run("nft", "list", "table", "inet", Table), "\n") {
		var n int
		if i := strings.Index(line, "counter packets "); i >= 0 {
			fmt.Sscanf(line[i:], "counter packets %d", &n)
		}
		switch {
		case strings.Contains(line, "a slot was missed"):
			missed += n
		case strings.Contains(line, "no slot was found"), strings.Contains(line, "no class was found"):
			lost += n
		}
	}
	return missed, lost
}

// newFlows sends UDP packets to the Service, each from another port and
// address, until ctx ends.
func newFlows(ctx context.Context, t *testing.T) (sent int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer unix.Close(fd)
	dst := at("svc", 0)
	p := make([]byte, 29)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[22:], 80)
	binary.BigEndian.PutUint16(p[24:], 9)
	for ; ctx.Err() == nil; sent++ {
		copy(p[12:], []byte{10, 244, 1, byte(100 + sent>>15&63)})
		binary.BigEndian.PutUint16(p[20:], uint16(1024+sent&0x7fff))
		if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Error(err)
			return sent
		}
	}
	return sent
}
