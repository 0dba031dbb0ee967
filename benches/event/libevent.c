/* The same as event.rs, with libevent. With THREADS, as a program needs it whose other threads stop the loop, or add to it. With
   PRECISE, for timers that are not a tick of the kernel late. */

#include "common.h"
#include <event2/event.h>
#ifdef THREADS
#include <event2/thread.h>
#endif

static struct event_base *base;
static struct event **events;

static void callback(evutil_socket_t fd, short kinds, void *index) {
    (void)fd, (void)kinds;
    if (take((int)(long)index))
        event_base_loopbreak(base);
}

void phase_make(void) {
    for (long i = 0; i < pairs; i++)
        events[i] = event_new(base, sockets[i][0], EV_READ | EV_PERSIST, callback, (void *)i);
}

void phase_add(void) {
    struct timeval timeout = {10, 0};
    for (int i = 0; i < pairs; i++)
        check(event_add(events[i], timeouts ? &timeout : NULL) == 0, "event_add");
    event_base_loop(base, EVLOOP_NONBLOCK);
}

void phase_call(void) {
    check(event_base_dispatch(base) >= 0, "event_base_dispatch");
}

void phase_delete(void) {
    for (int i = 0; i < pairs; i++)
        check(event_del(events[i]) == 0, "event_del");
    event_base_loop(base, EVLOOP_NONBLOCK);
}

void phase_free(void) {
    for (int i = 0; i < pairs; i++)
        event_free(events[i]);
}

int main(int argc, char **argv) {
    prepare(argc, argv);
#ifdef THREADS
    check(evthread_use_pthreads() == 0, "evthread_use_pthreads");
#endif
    struct event_config *config = event_config_new();
    check(config != NULL, "event_config_new");
#ifdef PRECISE
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
#endif
    base = event_base_new_with_config(config);
    event_config_free(config);
    events = calloc(pairs, sizeof *events);
    check(base != NULL && events != NULL, "event_base_new_with_config");
    run();
    return 0;
}
