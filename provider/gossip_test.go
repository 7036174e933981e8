package provider

import (
	"log/slog"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/clarion-lb/clarion/internal/gossipkey"
)

func TestTheGossipKeyIsMadeOnceAndNeverChanged(t *testing.T) {
	client := fake.NewClientset()
	k := &KeyMaker{Client: client, Namespace: "clarion-system", Log: slog.New(slog.DiscardHandler)}
	var first string
	for range 2 {
		if err := k.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		secret, err := client.CoreV1().Secrets("clarion-system").Get(t.Context(), gossipkey.Secret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		text := secret.StringData[gossipkey.Field]
		if _, err := gossipkey.Parse(text); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = text
		}
		if text != first {
			t.Fatal("the key was changed")
		}
	}
}
