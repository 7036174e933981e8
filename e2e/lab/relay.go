package lab

import (
	"fmt"
	"net"

	"github.com/clarion-lb/clarion/e2e/internal/netns"
)

// RelayPort is where the API server is found on 127.0.0.1 of the machine and of every host, so that one kubeconfig works
// everywhere and the machine needs no address or route of the lab's. The control plane's init passes connections on. A
// node that was booted anew has no relay until the control plane is booted too.
const RelayPort = 16443

// RelayCount is the number of relays.
func (l *Lab) RelayCount() int { return 1 + len(l.Settings.Hosts()) }

// openRelays opens the relays' ports. A socket stays in the network namespace in which it was made, whoever serves it.
func (l *Lab) openRelays() ([]*net.TCPListener, error) {
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: RelayPort}
	var open []*net.TCPListener
	listen := func() error {
		listener, err := net.ListenTCP("tcp4", address)
		if err == nil {
			open = append(open, listener)
		}
		return err
	}
	if err := listen(); err != nil {
		return nil, fmt.Errorf("open the port of the API server on this machine: %w", err)
	}
	for _, h := range l.Settings.Hosts() {
		if err := netns.Do(h.Netns(), listen); err != nil {
			closeAll(open)
			return nil, fmt.Errorf("open the port of the API server on %s: %w", h.Name, err)
		}
	}
	return open, nil
}

func closeAll(listeners []*net.TCPListener) {
	for _, l := range listeners {
		l.Close()
	}
}
