package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"testing"
)

func TestCertificatesAreGoodForWhatTheyAreFor(t *testing.T) {
	ca, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.PEM) {
		t.Fatal("the authority's certificate is no certificate")
	}
	server, err := ca.Server("api", []string{"kubernetes"}, []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8:1::10")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubernetes", "192.0.2.10", "2001:db8:1::10"} {
		if _, err := parse(t, server).Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("server known as %s: %v", name, err)
		}
	}
	client, err := ca.Client("system:node:node1", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, client)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if cert.Subject.CommonName != "system:node:node1" || cert.Subject.Organization[0] != "system:nodes" {
		t.Errorf("the client is %s", cert.Subject)
	}
	if _, err := tls.X509KeyPair(client.Cert, client.Key); err != nil {
		t.Errorf("certificate and key do not belong together: %v", err)
	}
}

func parse(t *testing.T, p Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
