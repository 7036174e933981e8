package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	// Fields 3 to 22 of proc(5); the 22nd is the start time.
	const rest = " S 1 10 10 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 98"
	for _, name := range []string{"(sleep)", "(a b)", "(x) y)", "((sd-pam))"} {
		start, state, err := parseStat([]byte("10 " + name + rest))
		if err != nil || start != 4711 || state != 'S' {
			t.Errorf("%s: start %d, state %c, %v", name, start, state, err)
		}
	}
	for _, broken := range []string{"", "10 (sleep", "10 (sleep) S 1 2", "10 (s) S 1 10 10 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x 99"} {
		if _, _, err := parseStat([]byte(broken)); err == nil {
			t.Errorf("%q was read", broken)
		}
	}
}

func TestKillEndsThatProcessAndNoOther(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	id, err := Find(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("%+v: %v", id, err)
	}
	// The same number with another start time is another process, and is left alone.
	other := ID{PID: id.PID, Start: id.Start - 1}
	if other.Alive() {
		t.Error("a process with another start time counts as alive")
	}
	if err := other.Kill(); err != nil || !id.Alive() {
		t.Fatalf("the wrong process was ended (%v)", err)
	}
	if err := id.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if id.Alive() {
		t.Error("a killed process counts as alive")
	}
	if err := id.Kill(); err != nil {
		t.Errorf("ending a process that is gone: %v", err)
	}
	if _, err := Find(id.PID); !errors.Is(err, ErrGone) {
		t.Errorf("finding a process that is gone: %v", err)
	}
}

func TestTheBookKeepsTheLastLivingProcessOfAName(t *testing.T) {
	book := Book{Path: filepath.Join(t.TempDir(), "processes")}
	if entries, err := book.Entries(); err != nil || len(entries) != 0 {
		t.Fatalf("a missing book: %v, %v", entries, err)
	}
	me, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]ID{"me": me, "dead": {PID: me.PID, Start: me.Start + 1}} {
		if err := book.Add(name, id); err != nil {
			t.Fatal(err)
		}
	}
	// A writer that was killed in the middle of a line must not hide the others.
	f, err := os.OpenFile(book.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("12 3"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if id, err := book.Get("me"); err != nil || id != me {
		t.Errorf("me: %+v, %v", id, err)
	}
	for _, name := range []string{"dead", "nobody"} {
		if _, err := book.Get(name); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProcessesAreFoundByTheirNetworkNamespace(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--map-root-user", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ended, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	// An echo shows that unshare has become cat, which is in the new namespace.
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	found, err := InNetns(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil || len(found) != 1 || found[0].PID != cmd.Process.Pid {
		t.Errorf("found %+v (%v), not just %d", found, err, cmd.Process.Pid)
	}
	mine, err := InNetns("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range mine {
		if id.PID == os.Getpid() || id.PID == cmd.Process.Pid {
			t.Errorf("process %d is in the list of this namespace", id.PID)
		}
	}
	if missing, err := InNetns(filepath.Join(t.TempDir(), "none")); err != nil || len(missing) != 0 {
		t.Errorf("a namespace that does not exist: %v, %v", missing, err)
	}
	in.Close()
	<-ended
}
