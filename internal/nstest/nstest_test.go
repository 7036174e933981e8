package nstest

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestHostsOnASwitchReachEachOther(t *testing.T) {
	lan := NewSwitch(t, "lan")
	a := lan.Attach("a", "192.0.2.1/24", "2001:db8::1/64")
	b := lan.Attach("b", "192.0.2.2/24", "2001:db8::2/64")
	for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
		var server net.PacketConn
		var client net.Conn
		var err error
		b.Do(func() { server, err = net.ListenPacket("udp", net.JoinHostPort(addr, "7")) })
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		a.Do(func() { client, err = net.Dial("udp", net.JoinHostPort(addr, "7")) })
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16)
		if n, _, err := server.ReadFrom(got); err != nil || string(got[:n]) != "hello" {
			t.Fatalf("%s heard %q, %v", addr, got[:n], err)
		}
	}
}

func TestHostsAreSeparate(t *testing.T) {
	a, b := NewHost(t, "a"), NewHost(t, "b")
	a.IP("link add only type veth peer name there")
	if out := b.IP("-br link"); strings.Contains(out, "only") {
		t.Fatalf("b sees the link of a:\n%s", out)
	}
	a.Sysctl("net.ipv4.ip_forward", "1")
	b.Sysctl("net.ipv4.ip_forward", "0")
	read := func() (s string) {
		got, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(got))
	}
	a.Do(func() {
		b.Do(func() {
			if read() != "0" {
				t.Error("b, entered from a, has the value of a")
			}
		})
		if read() != "1" {
			t.Error("a lost its value or its thread")
		}
	})
	if out, err := a.Command("false"); err == nil {
		t.Errorf("a failing command was called a success: %q", out)
	}
}

func TestAProcessEndsWithItsTest(t *testing.T) {
	var p *Process
	t.Run("inner", func(t *testing.T) { p = NewHost(t, "a").Start("sleep", "1000") })
	if p.cmd.ProcessState == nil {
		t.Fatal("it runs on")
	}
}
