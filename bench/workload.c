/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client and its server, in two processes: requests and responses, a stream, a connection per request, or
 * connections that are held until stdin ends. Both are event-driven (O_NONBLOCK, epoll), since that is what a redirect
 * is for. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 256
#define READ_SIZE 131072
#define PATIENCE_MS 120000

enum work { REQUESTS, STREAM, CONNECTS, HOLD };

/*
 * size: bytes per message; milliseconds: of the measurement; warm: until redirected, at most; spin: what the reader of
 * a stream computes after each read, in microseconds; before: milliseconds of streaming that do not count; rate: of
 * new connections per second, 0 for as many as possible; network: a descriptor of the server's network namespace, -1 for
 * the client's; bound_to: the server's address there; reached_at: where the client finds it, and port_above: by how much
 * the port is higher there.
 */
static struct {
	enum work work;
	int unix_socket, size, milliseconds, connections, client_cpu, server_cpu, no_delay, warm, spin, before,
		rate, network, port_above;
	const char *bound_to, *reached_at;
} options = {.size = 64, .milliseconds = 300, .connections = 1, .client_cpu = -1, .server_cpu = -1, .network = -1};

struct end {
	int fd;
	/* Whether an exchange went past TCP, and what TCP had carried before the last one. */
	int warm;
	uint64_t before;
	size_t missing;
};

/* Shared by both processes. */
static struct shared {
	volatile uint64_t received;
	volatile int streaming;
} * shared;

static char *buffer;
static struct sockaddr_storage address;
static socklen_t address_length;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(clockid_t clock)
{
	struct timespec time;

	if (clock_gettime(clock, &time))
		fail("clock_gettime");
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

static void prepare(int fd)
{
	int on = 1;

	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		fail("fcntl");
	if (options.no_delay && !options.unix_socket && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		fail("TCP_NODELAY");
}

static void wait_for(int fd, short events)
{
	struct pollfd polled = {.fd = fd, .events = events};
	int ready = poll(&polled, 1, PATIENCE_MS);

	if (ready < 0)
		fail("poll");
	if (!ready) {
		fprintf(stderr, "a peer did nothing for %d ms\n", PATIENCE_MS);
		exit(1);
	}
}

static void send_all(int fd, size_t size)
{
	while (size) {
		ssize_t sent = send(fd, buffer, size, MSG_NOSIGNAL);

		if (sent > 0)
			size -= sent;
		else if (errno == EAGAIN)
			wait_for(fd, POLLOUT);
		else
			fail("send");
	}
}

/* Bytes; 0 at the end of the stream, -1 when there is nothing now. */
static ssize_t receive(int fd, size_t size)
{
	ssize_t got = recv(fd, buffer, size, 0);

	if (got < 0 && errno != EAGAIN && errno != ECONNRESET)
		fail("recv");
	return got < 0 && errno == ECONNRESET ? 0 : got;
}

static void receive_all(int fd, size_t size)
{
	while (size) {
		ssize_t got = receive(fd, size);

		if (got > 0) {
			size -= got;
		} else if (!got) {
			fprintf(stderr, "the peer closed early\n");
			exit(1);
		} else {
			wait_for(fd, POLLIN);
		}
	}
}

static void watch(int epoll, int fd, void *data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

/* A socket keeps the network namespace in which it was made, and so do those that it accepts. */
static int server_socket(void)
{
	int fd, here = -1;

	if (options.network >= 0) {
		here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		if (here < 0 || setns(options.network, CLONE_NEWNET))
			fail("setns");
	}
	fd = socket(options.unix_socket ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		fail("socket");
	if (here >= 0 && setns(here, CLONE_NEWNET))
		fail("setns");
	return fd;
}

static in_addr_t parsed(const char *text)
{
	struct in_addr found;

	if (!inet_aton(text, &found))
		fail("inet_aton");
	return found.s_addr;
}

static int listener(void)
{
	int fd = server_socket(), on = 1;

	if (options.unix_socket) {
		/* Bound to no name of ours, the kernel chooses an abstract one. */
		address.ss_family = AF_UNIX;
		address_length = sizeof(sa_family_t);
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)&address;

		in->sin_family = AF_INET;
		/* Another address for each run: the last one's TIME_WAIT sockets keep their ports. */
		in->sin_addr.s_addr =
			options.bound_to ? parsed(options.bound_to) : htonl(0x7f000001 + getpid() % 65000);
		address_length = sizeof(*in);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	}
	if (bind(fd, (struct sockaddr *)&address, address_length) || listen(fd, 4096))
		fail("listen");
	address_length = sizeof(address);
	if (getsockname(fd, (struct sockaddr *)&address, &address_length))
		fail("getsockname");
	if (options.reached_at) {
		struct sockaddr_in *in = (struct sockaddr_in *)&address;

		in->sin_addr.s_addr = parsed(options.reached_at);
		in->sin_port = htons(ntohs(in->sin_port) + options.port_above);
	}
	return fd;
}

static int connected(void)
{
	int fd = socket(address.ss_family, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_length))
		fail("connect");
	prepare(fd);
	return fd;
}

static void compute(int microseconds)
{
	double end = now(CLOCK_MONOTONIC) + microseconds / 1e6;

	while (now(CLOCK_MONOTONIC) < end)
		;
}

static void serve_one(struct end *end)
{
	ssize_t got = receive(end->fd, shared->streaming ? READ_SIZE : end->missing);

	if (got < 0)
		return;
	if (!got) {
		close(end->fd);
		free(end);
		return;
	}
	if (shared->streaming) {
		shared->received += got;
		if (options.spin)
			compute(options.spin);
		return;
	}
	end->missing -= got;
	if (!end->missing) {
		end->missing = options.size;
		send_all(end->fd, options.size);
	}
}

static void serve(int listening)
{
	int epoll = epoll_create1(0);
	struct epoll_event events[MAX_EVENTS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(options.server_cpu);
	if (fcntl(listening, F_SETFL, O_NONBLOCK))
		fail("fcntl");
	watch(epoll, listening, NULL);
	for (;;) {
		int count = epoll_wait(epoll, events, MAX_EVENTS, -1);

		for (int index = 0; index < count; index++) {
			struct end *end = events[index].data.ptr;

			if (end) {
				serve_one(end);
				continue;
			}
			for (int fd; (fd = accept(listening, NULL, NULL)) >= 0;) {
				prepare(fd);
				end = malloc(sizeof(*end));
				*end = (struct end){.fd = fd, .missing = options.size};
				watch(epoll, fd, end);
			}
		}
	}
}

/* What TCP carried on a connection, both ways; 0 for a Unix socket. */
static uint64_t by_tcp(int fd)
{
	struct tcp_info info = {};
	socklen_t length = sizeof(info);

	if (options.unix_socket)
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		fail("TCP_INFO");
	return info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_bytes_received;
}

static uint64_t all_by_tcp(struct end *ends)
{
	uint64_t bytes = 0;

	for (int index = 0; index < options.connections; index++)
		bytes += by_tcp(ends[index].fd);
	return bytes;
}

static void exchange_all(struct end *ends)
{
	for (int index = 0; index < options.connections; index++)
		if (!ends[index].warm)
			send_all(ends[index].fd, options.size);
	for (int index = 0; index < options.connections; index++)
		if (!ends[index].warm)
			receive_all(ends[index].fd, options.size);
}

/*
 * Exchanges messages on each connection until TCP carries nothing of one; what makes a redirect possible may take half
 * a second. Each is asked for itself: TCP carries one message of each now and then all the same, so among very many
 * there is hardly a moment without one. Returns whether all came so far.
 */
static int warm_up(struct end *ends)
{
	double end = now(CLOCK_MONOTONIC) + options.warm / 1e3;
	int cold = options.connections;

	do {
		for (int index = 0; index < options.connections; index++)
			ends[index].before = by_tcp(ends[index].fd);
		exchange_all(ends);
		for (int index = 0; options.warm && index < options.connections; index++) {
			if (ends[index].warm || by_tcp(ends[index].fd) != ends[index].before)
				continue;
			ends[index].warm = 1;
			cold--;
		}
	} while (cold && now(CLOCK_MONOTONIC) < end);
	return !cold;
}

static uint64_t request(struct end *ends, double until)
{
	int epoll = epoll_create1(0);
	struct epoll_event events[MAX_EVENTS];
	uint64_t operations = 0;

	for (int index = 0; index < options.connections; index++) {
		watch(epoll, ends[index].fd, &ends[index]);
		ends[index].missing = options.size;
		send_all(ends[index].fd, options.size);
	}
	while (now(CLOCK_MONOTONIC) < until) {
		int count = epoll_wait(epoll, events, MAX_EVENTS, PATIENCE_MS);

		if (!count)
			fail("no response");
		for (int index = 0; index < count; index++) {
			struct end *end = events[index].data.ptr;
			ssize_t got = receive(end->fd, end->missing);

			if (got < 0)
				continue;
			if (!got)
				fail("the server closed");
			end->missing -= got;
			if (end->missing)
				continue;
			operations++;
			end->missing = options.size;
			send_all(end->fd, options.size);
		}
	}
	return operations;
}

static void stream(struct end *ends, double until)
{
	while (now(CLOCK_MONOTONIC) < until)
		for (int index = 0; index < options.connections; index++)
			/* The clock is no part of what is measured. */
			for (int repeat = 0; repeat < 16; repeat++)
				send_all(ends[index].fd, options.size);
}

static void sleep_until(double due)
{
	double left = due - now(CLOCK_MONOTONIC);

	if (left > 0)
		usleep(left * 1e6);
}

/* So many stay open as there are ends; the oldest is closed for a new one. */
static uint64_t connect_request_close(struct end *ends, double until)
{
	double begun = now(CLOCK_MONOTONIC);
	uint64_t operations = 0;

	for (; now(CLOCK_MONOTONIC) < until; operations++) {
		struct end *end = &ends[operations % options.connections];

		if (options.rate)
			sleep_until(begun + (double)operations / options.rate);
		if (operations >= (uint64_t)options.connections)
			close(end->fd);
		end->fd = connected();
		send_all(end->fd, options.size);
		receive_all(end->fd, options.size);
	}
	return operations;
}

/* The last measurement's sockets in TIME_WAIT would be memory that the next one sees vanish. */
static void reset_at_close(struct end *ends)
{
	struct linger linger = {.l_onoff = 1};

	for (int index = 0; index < options.connections; index++)
		if (setsockopt(ends[index].fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)))
			fail("SO_LINGER");
}

static void measure(pid_t server)
{
	struct end *ends = calloc(options.connections, sizeof(*ends));
	int redirected = 0, connections = options.work == CONNECTS ? 0 : options.connections;
	double begun, elapsed, client_before, server_before;
	uint64_t operations = 0, bytes = 0, received = 0, tcp_before = 0, tcp = 0;
	clockid_t server_clock;

	if (clock_getcpuclockid(server, &server_clock))
		fail("clock_getcpuclockid");
	pin(options.client_cpu);
	for (int index = 0; index < connections; index++)
		ends[index].fd = connected();
	if (options.work == HOLD) {
		reset_at_close(ends);
		printf("%d\n", warm_up(ends));
		fflush(stdout);
		while (read(STDIN_FILENO, buffer, READ_SIZE) > 0)
			;
		return;
	}
	if (connections) {
		redirected = warm_up(ends);
		tcp_before = all_by_tcp(ends);
	}
	if (options.work == STREAM) {
		shared->streaming = 1;
		stream(ends, now(CLOCK_MONOTONIC) + options.before / 1e3);
		received = shared->received;
		tcp_before = all_by_tcp(ends);
	}
	client_before = now(CLOCK_PROCESS_CPUTIME_ID);
	server_before = now(server_clock);
	begun = now(CLOCK_MONOTONIC);
	if (options.work == REQUESTS) {
		operations = request(ends, begun + options.milliseconds / 1e3);
		bytes = 2 * operations * options.size;
	} else if (options.work == CONNECTS) {
		operations = connect_request_close(ends, begun + options.milliseconds / 1e3);
		bytes = 2 * operations * options.size;
	} else {
		stream(ends, begun + options.milliseconds / 1e3);
		bytes = shared->received - received;
		operations = bytes / options.size;
	}
	elapsed = now(CLOCK_MONOTONIC) - begun;
	if (connections)
		tcp = all_by_tcp(ends) - tcp_before;
	printf("{\"operations\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"client_cpu\": %.6f, \"server_cpu\": "
	       "%.6f, "
	       "\"tcp_bytes\": %llu, \"redirected\": %d}\n",
	       (unsigned long long)operations, (unsigned long long)bytes, elapsed,
	       now(CLOCK_PROCESS_CPUTIME_ID) - client_before, now(server_clock) - server_before,
	       (unsigned long long)tcp, redirected);
}

int main(int argc, char **argv)
{
	struct rlimit files;
	int option, listening;
	pid_t server;

	while ((option = getopt(argc, argv, "rsxhunb:t:c:p:q:w:z:R:S:N:B:A:P:")) != -1) {
		switch (option) {
		case 'r':
			options.work = REQUESTS;
			break;
		case 's':
			options.work = STREAM;
			break;
		case 'x':
			options.work = CONNECTS;
			break;
		case 'h':
			options.work = HOLD;
			break;
		case 'u':
			options.unix_socket = 1;
			break;
		case 'S':
			options.size = atoi(optarg);
			break;
		case 't':
			options.milliseconds = atoi(optarg);
			break;
		case 'c':
			options.connections = atoi(optarg);
			break;
		case 'p':
			options.client_cpu = atoi(optarg);
			break;
		case 'q':
			options.server_cpu = atoi(optarg);
			break;
		case 'n':
			options.no_delay = 1;
			break;
		case 'w':
			options.warm = atoi(optarg);
			break;
		case 'b':
			options.before = atoi(optarg);
			break;
		case 'R':
			options.rate = atoi(optarg);
			break;
		case 'N':
			options.network = atoi(optarg);
			break;
		case 'B':
			options.bound_to = optarg;
			break;
		case 'A':
			options.reached_at = optarg;
			break;
		case 'P':
			options.port_above = atoi(optarg);
			break;
		case 'z':
			options.spin = atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	buffer = malloc(options.size > READ_SIZE ? options.size : READ_SIZE);
	memset(buffer, 'x', options.size > READ_SIZE ? options.size : READ_SIZE);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	listening = listener();
	server = fork();
	if (server < 0)
		fail("fork");
	if (!server)
		serve(listening);
	close(listening);
	measure(server);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	return 0;
}
