package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// open returns a connection on a host of its own.
func open(t testing.TB) (*nstest.Host, *Conn) {
	h := nstest.NewHost(t, "h")
	var c *Conn
	var err error
	h.Do(func() { c, err = Open() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return h, c
}

func apply(t testing.TB, c *Conn, want Table) (changed bool) {
	t.Helper()
	have, err := c.Read(want.Name)
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	if err := want.Ensure(&b, have); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(&b); err != nil {
		t.Fatal(err)
	}
	return !b.Empty()
}

var (
	eps   = Set{Name: "eps", Key: []Type{Addr(ipfam.V4), Proto, Port, ClassID}, Data: []Type{Addr(ipfam.V4), Port}, Size: 65536}
	marks = Set{Name: "marks", Key: []Type{ClassID}, Data: []Type{Goto}}
	small = Set{Name: "small", Key: []Type{Port}, Size: 4}
)

func table() Table {
	return Table{Name: "t", Sets: []Set{eps, marks, small}, Chains: []Chain{
		{Name: "in", Hook: &Hook{Type: "filter", Point: Input}, Rules: []Rule{
			{Comment: "why", Steps: []Step{StateInvalid(), Drop()}},
			Say(Jump("c"))}},
		{Name: "c", Rules: []Rule{Say(ProtoIs(6), Count(), Return())}},
	}}
}

func TestEnsureChangesOnlyWhatIsWrong(t *testing.T) {
	h, c := open(t)
	if !apply(t, c, table()) {
		t.Fatal("nothing was made")
	}
	if apply(t, c, table()) {
		t.Error("what is right was written again")
	}
	before := h.Run("nft", "-a", "list", "chain", "inet", "t", "in")
	h.Run("nft", "insert rule inet t c drop")
	if !apply(t, c, table()) {
		t.Error("a foreign rule was not noticed")
	}
	if after := h.Run("nft", "-a", "list", "chain", "inet", "t", "in"); after != before {
		t.Errorf("the chain beside it was touched:\n%s", after)
	}
	if out := h.Run("nft", "list", "chain", "inet", "t", "c"); strings.Contains(out, "drop") {
		t.Errorf("the foreign rule is still there:\n%s", out)
	}
}

func TestEnsureTellsAnotherLayout(t *testing.T) {
	for _, other := range []string{
		"add set inet t eps { type ipv4_addr; }",
		"add map inet t eps { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr; }",
		"add set inet t small { type inet_service; flags interval; }",
		"add chain inet t in { type filter hook input priority 5; }",
		"add chain inet t in",
		"add chain inet t c { type filter hook input priority 5; }",
	} {
		h, c := open(t)
		h.Run("nft", "add table inet t; "+other)
		have, err := c.Read("t")
		if err != nil {
			t.Fatal(err)
		}
		if err := table().Ensure(new(Batch), have); !errors.Is(err, ErrIncompatible) {
			t.Errorf("%s: %v", other, err)
		}
	}
}

func TestElementsComeBackAsTheyWent(t *testing.T) {
	_, c := open(t)
	apply(t, c, table())
	want := map[string]Element{}
	var b Batch
	for i := range 2000 {
		a := addr4(byte(i>>8), byte(i))
		el := Element{Key: string(Val{}.Addr(a).Proto(17).Port(uint16(i)).Number(uint32(i))), Data: string(Val{}.Addr(a).Port(uint16(i))),
			Comment: fmt.Sprintf("number %d", i)}
		want[el.Key] = el
		b.Add("t", eps, el)
	}
	verdict := Element{Key: string(Val{}.Number(3)), Data: "c"}
	b.Add("t", marks, verdict)
	port := Element{Key: string(Val{}.Port(80))}
	b.Add("t", small, port)
	if err := c.Commit(&b); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := c.Elements("t", eps, func(el Element) error {
		n++
		if want[el.Key] != el {
			return fmt.Errorf("got %+v", el)
		}
		return nil
	}); err != nil || n != len(want) {
		t.Errorf("%d elements, %v", n, err)
	}
	for _, one := range []struct {
		s    Set
		want Element
	}{{marks, verdict}, {small, port}} {
		if err := c.Elements("t", one.s, func(el Element) error {
			if el != one.want {
				return fmt.Errorf("got %+v, want %+v", el, one.want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func TestAFullSetRefusesAllAndSaysWhich(t *testing.T) {
	_, c := open(t)
	apply(t, c, table())
	var b Batch
	b.Add("t", eps, Element{Key: string(Val{}.Addr(addr4(1, 1)).Proto(6).Port(1).Number(0)), Data: string(Val{}.Addr(addr4(1, 2)).Port(1))})
	for p := range uint16(5) {
		b.Add("t", small, Element{Key: string(Val{}.Port(p))})
	}
	err := c.Commit(&b)
	if !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "add 1 elements of set small of table t: the set is full") {
		t.Errorf("err = %v", err)
	}
	if err := c.Elements("t", eps, func(el Element) error { return fmt.Errorf("%+v was added", el) }); err != nil {
		t.Error(err)
	}
	bigger := small
	bigger.Size = 100
	var grow Batch
	grow.AddSet("t", bigger)
	if err := c.Commit(&grow); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(&b); err != nil {
		t.Errorf("after it grew: %v", err)
	}
}

// The kernel may forget the answer: then what happened is unknown, and said so.
func TestABatchLargerThanTheBufferIsRefusedBeforeItIsSent(t *testing.T) {
	_, c := open(t)
	apply(t, c, table())
	var b Batch
	for i := 0; b.Len() <= c.Room(); i++ {
		b.Add("t", eps, Element{Key: string(Val{}.Addr(addr4(byte(i>>8), byte(i))).Proto(6).Port(1).Number(uint32(i))), Data: string(Val{}.Addr(addr4(1, 2)).Port(1))})
	}
	if err := c.Commit(&b); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("err = %v", err)
	}
}

func TestAKernelWithoutNftablesIsNamed(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		err := missing(fmt.Errorf("ask: %w", errno))
		if !errors.Is(err, ErrMissing) || !strings.HasPrefix(err.Error(), "this kernel has no nftables (") {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := missing(unix.EPERM); errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "NET_ADMIN") {
		t.Error(err)
	}
}

func FuzzDecodeElement(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = eps.decodeElement(b)
		_, _ = marks.decodeElement(b)
		_ = record(b, 0)
	})
}

func addr4(c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, c, d}) }
