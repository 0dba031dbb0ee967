/* The same as event.rs, with libuv. What it adds, it tells the kernel in the next iteration. */

#include "common.h"
#include <uv.h>

/* A reader and its idle time-out. */
struct event {
    uv_poll_t poll;
    uv_timer_t timer;
    int index;
};

static uv_loop_t *loop;
static struct event **events;

static void on_timeout(uv_timer_t *timer) {
    (void)timer;
    check(0, "a time-out");
}

static void callback(uv_poll_t *poll, int status, int kinds) {
    struct event *event = (struct event *)poll;
    (void)status, (void)kinds;
    if (timeouts)
        uv_timer_again(&event->timer);
    if (take(event->index))
        uv_stop(loop);
}

void phase_make(void) {
    for (int i = 0; i < pairs; i++) {
        struct event *event = events[i] = malloc(sizeof *event);
        check(event != NULL, "malloc");
        event->index = i;
        check(uv_poll_init(loop, &event->poll, sockets[i][0]) == 0, "uv_poll_init");
        if (timeouts)
            uv_timer_init(loop, &event->timer);
    }
}

void phase_add(void) {
    for (int i = 0; i < pairs; i++) {
        check(uv_poll_start(&events[i]->poll, UV_READABLE, callback) == 0, "uv_poll_start");
        if (timeouts)
            uv_timer_start(&events[i]->timer, on_timeout, 10000, 10000);
    }
    uv_run(loop, UV_RUN_NOWAIT);
}

void phase_call(void) {
    check(uv_run(loop, UV_RUN_DEFAULT) != 0, "uv_run");
}

void phase_delete(void) {
    for (int i = 0; i < pairs; i++) {
        uv_poll_stop(&events[i]->poll);
        if (timeouts)
            uv_timer_stop(&events[i]->timer);
    }
    uv_run(loop, UV_RUN_NOWAIT);
}

static void closed(uv_handle_t *handle) {
    free(handle);
}

static void timer_closed(uv_handle_t *handle) {
    (void)handle;
}

void phase_free(void) {
    for (int i = 0; i < pairs; i++) {
        if (timeouts)
            uv_close((uv_handle_t *)&events[i]->timer, timer_closed);
        uv_close((uv_handle_t *)&events[i]->poll, closed);
    }
    uv_run(loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv) {
    prepare(argc, argv);
    loop = uv_default_loop();
    events = calloc(pairs, sizeof *events);
    check(loop != NULL && events != NULL, "uv_default_loop");
    run();
    return 0;
}
