/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client and a server on one CPU that sleep in recv() for each byte they get: what a program pays that sockaccel
 * does not accelerate, for watching recv(). Argument: milliseconds. Prints the CPU time of both for a call of recv(), in
 * ns, in the best of many slices of that time: whatever else the machine does makes others worse.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

#define SLICE_S 0.05

static double read_clock(clockid_t clock)
{
	struct timespec time;

	if (clock_gettime(clock, &time))
		fail("clock_gettime");
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Seconds of CPU time of this process and the server. */
static double used(clockid_t server)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID) + read_clock(server);
}

static void trip(int end)
{
	char byte = 0;

	if (send(end, &byte, 1, 0) != 1 || recv(end, &byte, 1, 0) != 1)
		fail("send or recv");
}

/* Seconds of CPU time for a call, over a slice. */
static double measure(int end, clockid_t server)
{
	double before = used(server), begin = read_clock(CLOCK_MONOTONIC);
	long trips = 0;

	do {
		trip(end);
		trips++;
	} while (read_clock(CLOCK_MONOTONIC) - begin < SLICE_S);
	return (used(server) - before) / (2 * trips);
}

static void serve(int listener)
{
	int one = 1, end = accept(listener, NULL, NULL);
	char byte;

	if (end < 0 || setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("accept");
	while (recv(end, &byte, 1, 0) == 1) {
		if (send(end, &byte, 1, 0) != 1)
			fail("send");
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), end = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	socklen_t length = sizeof(address);
	double begin, seconds, found, best = 1;
	clockid_t server;
	cpu_set_t cpu;
	pid_t pid;

	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	if (argc != 2 || sched_setaffinity(0, sizeof(cpu), &cpu))
		fail("usage: sleeper MILLISECONDS");
	seconds = atoi(argv[1]) / 1e3;
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		fail("listen");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(listener);
	}
	if (connect(end, (struct sockaddr *)&address, length) ||
	    setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("connect");
	if (clock_getcpuclockid(pid, &server))
		fail("clock_getcpuclockid");
	begin = read_clock(CLOCK_MONOTONIC);
	do {
		found = measure(end, server);
		if (found < best)
			best = found;
	} while (read_clock(CLOCK_MONOTONIC) - begin < seconds);
	printf("%.1f\n", best * 1e9);
	return 0;
}
