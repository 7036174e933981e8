package nfnl

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEncoderAndWalkAgree(t *testing.T) {
	var e Encoder
	e.Text(1, "abc")
	n := e.Nest(2)
	e.Uint8(1, 7)
	e.Uint16(2, 0x1234)
	e.Uint32(3, 0x12345678)
	e.Uint64(4, 1)
	e.End(n)
	e.String(3, "xy")
	if got := Text(Find(e.B, 1)); got != "abc" {
		t.Errorf("text = %q", got)
	}
	if got := Find(e.B, 2, 2); !bytes.Equal(got, []byte{0x12, 0x34}) {
		t.Errorf("number = %x", got)
	}
	if got := Uint32(Find(e.B, 2, 3)); got != 0x12345678 {
		t.Errorf("number = %x", got)
	}
	if got := Find(e.B, 2, 9); got != nil {
		t.Errorf("found what is not there: %x", got)
	}
	if got := string(Find(e.B, 3)); got != "xy" {
		t.Errorf("string = %q", got)
	}
}

func TestWalkRefusesLengthsThatLie(t *testing.T) {
	for _, b := range [][]byte{{1}, {3, 0, 1, 0}, {9, 0, 1, 0, 0, 0, 0, 0}} {
		if err := Walk(b, func(uint16, []byte) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func FuzzWalk(f *testing.F) {
	var e Encoder
	n := e.Nest(2)
	e.Text(1, "a")
	e.End(n)
	f.Add(e.B)
	f.Fuzz(func(t *testing.T, b []byte) {
		var again Encoder
		var nest bool
		if Walk(b, func(typ uint16, v []byte) error { again.Bytes(typ, v); nest = true; return nil }) != nil {
			return
		}
		if nest && len(again.B) == 0 {
			t.Fatal("attributes were lost")
		}
		_ = Find(b, 1, 2)
		_ = Uint32(Find(b, 1))
	})
}

func FuzzMessages(f *testing.F) {
	var e Encoder
	s := AppendHeader(&e, Header{Type: 1})
	e.Text(1, "a")
	CloseMessage(&e, s)
	f.Add(e.B)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = messages(b, func(m nlmsg) error {
			_, _ = m.errno()
			_, err := m.message()
			return err
		})
	})
}

func TestLongAttributeIsACallersMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("a length that does not fit 16 bits was written")
		}
	}()
	var e Encoder
	e.Bytes(1, make([]byte, 1<<16))
}

func TestErrorCarriesTheMessageItIsAbout(t *testing.T) {
	var err error = &Refused{Index: 2, Errno: unix.ENOENT}
	if !errors.Is(err, unix.ENOENT) {
		t.Fatal("the errno cannot be asked for")
	}
}
