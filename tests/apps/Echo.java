// SPDX-License-Identifier: GPL-2.0-or-later

import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Random;

/** An echo server and its client: "serve PORT", "channels PORT CONNECTIONS BYTES", "available PORT BYTES". */
public final class Echo {
    private static final InetAddress HOST = InetAddress.getLoopbackAddress();
    private static final long PATIENCE_MS = 10_000;
    private static final int SLOW_BYTES = 100_000, MESSAGE_BYTES = 1000;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        switch (arguments[0]) {
            case "serve" -> serve(port);
            case "channels" -> channels(port, Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]));
            case "available" -> available(port, Integer.parseInt(arguments[2]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    /** One thread, one selector; each connection has one buffer that is filled and emptied. */
    private static void serve(int port) throws IOException {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress(HOST, port), 1024);
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel channel = listener.accept();
                    if (channel != null) {
                        channel.configureBlocking(false);
                        channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(65536));
                    }
                } else {
                    echo(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    private static void echo(SelectionKey key) throws IOException {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        try {
            if (key.isReadable() && channel.read(buffer) < 0) {
                channel.close();
                return;
            }
            buffer.flip();
            channel.write(buffer);
            buffer.compact();
            int room = buffer.hasRemaining() ? SelectionKey.OP_READ : 0;
            key.interestOps(room | (buffer.position() > 0 ? SelectionKey.OP_WRITE : 0));
        } catch (IOException gone) {
            channel.close();
        }
    }

    /** What one connection of the client still has to send, and the hash of what came back. */
    private static final class Stream {
        final ByteBuffer unsent;
        final MessageDigest received;
        final byte[] expected;
        final int size;
        long missing;

        Stream(int seed, int size) throws Exception {
            byte[] content = new byte[size];
            new Random(seed).nextBytes(content);
            unsent = ByteBuffer.wrap(content);
            received = MessageDigest.getInstance("SHA-256");
            expected = MessageDigest.getInstance("SHA-256").digest(content);
            this.size = size;
            missing = size;
        }

        private long came() {
            return size - missing;
        }

        /** A message at a time at first: of a stream whose reader never catches up nothing is redirected. */
        private boolean isSlow() {
            return came() < SLOW_BYTES;
        }

        void write(SocketChannel channel) throws IOException {
            if (isSlow()) {
                unsent.limit(Math.min(size, unsent.position() + MESSAGE_BYTES));
            }
            channel.write(unsent);
            unsent.limit(size);
        }

        int interest() {
            boolean writes = unsent.hasRemaining() && (!isSlow() || unsent.position() == came());
            return writes ? SelectionKey.OP_READ | SelectionKey.OP_WRITE : SelectionKey.OP_READ;
        }
    }

    /** Many connections over one selector, each with its own content; prints a hash of all that came back. */
    private static void channels(int port, int connections, int size) throws Exception {
        Selector selector = Selector.open();
        ByteBuffer buffer = ByteBuffer.allocateDirect(65536);
        MessageDigest all = MessageDigest.getInstance("SHA-256");
        for (int number = 0; number < connections; number++) {
            SocketChannel channel = SocketChannel.open(new InetSocketAddress(HOST, port));
            channel.configureBlocking(false);
            Stream stream = new Stream(number, size);
            channel.register(selector, SelectionKey.OP_READ | SelectionKey.OP_WRITE, stream);
            all.update(stream.expected);
        }
        int open = connections;
        while (open > 0) {
            if (selector.select(PATIENCE_MS) == 0) {
                throw new IOException("stalled with " + open + " connections open");
            }
            for (SelectionKey key : selector.selectedKeys()) {
                SocketChannel channel = (SocketChannel) key.channel();
                Stream stream = (Stream) key.attachment();
                if (key.isWritable()) {
                    stream.write(channel);
                    key.interestOps(stream.interest());
                }
                if (key.isReadable()) {
                    buffer.clear();
                    int count = channel.read(buffer);
                    if (count < 0) {
                        throw new IOException("a connection ended with " + stream.missing + " bytes missing");
                    }
                    stream.received.update(buffer.flip());
                    stream.missing -= count;
                    if (stream.missing == 0) {
                        if (!MessageDigest.isEqual(stream.received.digest(), stream.expected)) {
                            throw new IOException("other bytes came back");
                        }
                        channel.close();
                        open--;
                    } else {
                        key.interestOps(stream.interest());
                    }
                }
            }
            selector.selectedKeys().clear();
        }
        System.out.println("hash " + HexFormat.of().formatHex(all.digest()));
    }

    /** Reads no more than InputStream.available() says, as programs do that must not block. */
    private static void available(int port, int size) throws Exception {
        byte[] content = new byte[size];
        new Random(1).nextBytes(content);
        byte[] received = new byte[size];
        int count = 0;
        try (Socket socket = new Socket(HOST, port)) {
            // A socket with a time limit does not block in the kernel: Java polls.
            socket.setSoTimeout((int) PATIENCE_MS);
            socket.setTcpNoDelay(true);
            InputStream input = socket.getInputStream();
            // One round trip puts both ends into their final state.
            socket.getOutputStream().write(1);
            if (input.read() != 1) {
                throw new IOException("the first byte did not come back");
            }
            // Until the end of its input the test waits for the connection to join.
            System.out.println("ready");
            System.in.read();
            socket.getOutputStream().write(content);
            long end = System.nanoTime() + PATIENCE_MS * 1_000_000;
            while (count < size && System.nanoTime() < end) {
                int there = input.available();
                if (there > 0) {
                    count += input.read(received, count, Math.min(there, size - count));
                } else {
                    Thread.onSpinWait();
                }
            }
        }
        boolean same = count == size && java.util.Arrays.equals(content, received);
        System.out.println(same ? "same" : count < size ? "available() says 0 after " + count : "other bytes");
    }
}
