package hostinit

import (
	"io"
	"log"
	"net"
)

// relay passes every connection to the listener on to the target, for as long as the host lives. It is how programs in
// other network namespaces, above all kubectl on the machine itself, reach the API server without any address or route
// of the machine being changed.
func relay(listener net.Listener, target string, logger *log.Logger) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			logger.Printf("relay to %s: accept: %v", target, err)
			return
		}
		go func() {
			defer conn.Close()
			server, err := net.Dial("tcp", target)
			if err != nil {
				// The API server is not there yet or any more: the client sees its connection end and tries again.
				return
			}
			defer server.Close()
			there := make(chan struct{})
			go func() {
				defer close(there)
				pass(server, conn)
			}()
			pass(conn, server)
			<-there
		}()
	}
}

// pass copies one direction and passes its end on, so that half-closed connections work.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // either side may go away at any time; that is no news
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
