package annotation

import "testing"

func TestRead(t *testing.T) {
	tests := []struct {
		name        string
		wish        Wish
		annotations map[string]string
		value, key  string
	}{
		{"nothing", ForAddresses(), nil, "", ""},
		{"own key", ForAddresses(), map[string]string{Addresses: " 192.0.2.1 "}, "192.0.2.1", Addresses},
		{"own key beats an alias", ForPool(), map[string]string{"metallb.io/address-pool": "a", Pool: "b"}, "b", Pool},
		{"a blank own key is none", ForPool(), map[string]string{"purelb.io/service-group": "a", Pool: " "}, "a", "purelb.io/service-group"},
		{"an old name", ForShare(), map[string]string{"metallb.universe.tf/allow-shared-ip": "k"}, "k", "metallb.universe.tf/allow-shared-ip"},
		{"the newer name first", ForAddresses(), map[string]string{"io.cilium/lb-ipam-ips": "2001:db8::1", "lbipam.cilium.io/ips": "2001:db8::2"}, "2001:db8::2", "lbipam.cilium.io/ips"},
		{"a foreign key", ForShare(), map[string]string{"example.org/share": "k"}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			value, key := tt.wish.Read(tt.annotations)
			if value != tt.value || key != tt.key {
				t.Errorf("got %q from %q", value, key)
			}
		})
	}
}
