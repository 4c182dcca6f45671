// SPDX-License-Identifier: GPL-2.0-or-later
// A TCP proxy as one writes it in Go: io.Copy from one connection to the other, which splices.
// Arguments: the addresses to listen on, and to connect to.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func pass(from, to *net.TCPConn) {
	io.Copy(to, from)
	to.CloseWrite()
}

func serve(front *net.TCPConn) {
	back, err := net.Dial("tcp", os.Args[2])
	if err != nil {
		log.Print(err)
		front.Close()
		return
	}
	go pass(front, back.(*net.TCPConn))
	pass(back.(*net.TCPConn), front)
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		front, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(front.(*net.TCPConn))
	}
}
