/* What the two C programs of the comparison share: see ../event.rs, which compiles, runs and compares them. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

/* A choice of pairs, of bytes that travel at a time, of bytes written in all, of rounds, and whether each reader has an idle
   time-out as well. */
static int pairs, active, writes, rounds, timeouts;

/* Reader and writer. */
static int (*sockets)[2];

static int called, writes_left;

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void prepare(int argc, char **argv) {
    struct rlimit limit;
    check(argc == 6, "pairs active writes rounds timeouts");
    pairs = atoi(argv[1]);
    active = atoi(argv[2]);
    writes = atoi(argv[3]);
    rounds = atoi(argv[4]);
    timeouts = atoi(argv[5]);
    check(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    check(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
    sockets = calloc(pairs, sizeof *sockets);
    check(sockets != NULL, "calloc");
    for (int i = 0; i < pairs; i++)
        check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets[i]) == 0, "socketpair");
}

static void give(int i) {
    check(send(sockets[i][1], "e", 1, 0) == 1, "send");
}

/* The work of a callback. Says whether it was the last one. */
static int take(int i) {
    char byte;
    check(recv(sockets[i][0], &byte, 1, 0) == 1, "recv");
    if (writes_left > 0) {
        writes_left--;
        give(i + 1 < pairs ? i + 1 : 0);
    }
    return ++called == writes + active;
}

static double cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

/* Functions of these names are what valgrind counts the instructions of. Those of the library are called from there, and
   not jumped to. */
__attribute__((noinline)) void phase_make(void);
__attribute__((noinline)) void phase_add(void);
__attribute__((noinline)) void phase_call(void);
__attribute__((noinline)) void phase_delete(void);
__attribute__((noinline)) void phase_free(void);

static void measure(const char *name, void (*phase)(void), int n) {
    double started = cpu_ns();
    phase();
    printf("%s %.1f\n", name, (cpu_ns() - started) / n);
}

static void run(void) {
    measure("make", phase_make, pairs);
    for (int round = 0; round < rounds; round++) {
        measure(round == 0 ? "add" : "add again", phase_add, pairs);
        called = 0;
        writes_left = writes;
        for (int i = 0; i < active; i++)
            give(i * (pairs / active));
        measure("call", phase_call, writes + active);
        measure("delete", phase_delete, pairs);
    }
    measure("free", phase_free, pairs);
}
