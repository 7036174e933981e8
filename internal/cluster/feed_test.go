package cluster

import "testing"

func TestFeedFoldsToTheLastValue(t *testing.T) {
	f := NewFeed()
	one, two := &Service{Key: "a/b", UID: "1"}, &Service{Key: "a/b", UID: "2"}
	f.Put(Delta{Services: map[Key]*Service{"a/b": one, "a/c": one}})
	f.Put(Delta{Services: map[Key]*Service{"a/b": two, "a/c": nil}})
	f.Put(Delta{Synced: true})
	<-f.Ready()
	d := f.Take()
	if d.Services["a/b"] != two || !d.Synced {
		t.Fatalf("got %+v", d)
	}
	if gone, said := d.Services["a/c"]; gone != nil || !said {
		t.Fatalf("the deletion of a/c was lost: %+v", d)
	}
	select {
	case <-f.Ready():
		t.Fatal("signalled again with nothing to take")
	default:
	}
	if !f.Take().Empty() {
		t.Fatal("taken twice")
	}
}

func TestFeedDoesNotChangeWhatWasPut(t *testing.T) {
	f := NewFeed()
	mine := map[Key]*Service{"a/b": {}}
	f.Put(Delta{Services: mine})
	f.Put(Delta{Services: map[Key]*Service{"a/c": {}}})
	if len(mine) != 1 {
		t.Fatal("the feed wrote into the writer's map")
	}
}
