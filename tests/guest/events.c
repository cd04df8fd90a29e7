#include "t.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int ends[2];
static void add(int set, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {events, {.u64 = data}};
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void epoll_tells_what_is_ready(void) {
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event found[4];
    CHECK(pipe(ends) == 0);
    add(set, ends[0], EPOLLIN, 77);
    EQUAL(epoll_wait(set, found, 4, 0), 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(epoll_wait(set, found, 4, -1), 1);
    EQUAL(found[0].events, EPOLLIN);
    EQUAL(found[0].data.u64, 77);
    EQUAL(epoll_wait(set, found, 4, 0), 1);
    struct epoll_event event = {EPOLLOUT, {.u64 = 78}};
    FAILS(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event), EEXIST);
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, ends[0], &event) == 0);
    EQUAL(epoll_wait(set, found, 4, 0), 0);
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, ends[0], NULL) == 0);
    FAILS(epoll_ctl(set, EPOLL_CTL_DEL, ends[0], NULL), ENOENT);
    add(set, ends[1], EPOLLOUT, 1);
    add(set, ends[0], EPOLLIN, 2);
    EQUAL(epoll_wait(set, found, 4, 0), 2);
    close(ends[1]);
    EQUAL(epoll_wait(set, found, 4, 0), 1);
    CHECK(found[0].events & EPOLLHUP);
    FAILS(epoll_ctl(set, EPOLL_CTL_ADD, set, &event), EINVAL);
    int plain = open("plain", O_CREAT | O_RDWR, 0600);
    FAILS(epoll_ctl(set, EPOLL_CTL_ADD, plain, &event), EPERM);
    FAILS(epoll_wait(set, found, 0, 0), EINVAL);
}

static void edges_are_told_once(void) {
    int set = epoll_create1(0);
    struct epoll_event found[4];
    CHECK(pipe(ends) == 0);
    add(set, ends[0], EPOLLIN | EPOLLET, 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(epoll_wait(set, found, 4, 0), 1);
    EQUAL(epoll_wait(set, found, 4, 0), 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(epoll_wait(set, found, 4, 0), 1);
    int other = epoll_create1(0);
    add(other, ends[0], EPOLLIN | EPOLLONESHOT, 0);
    EQUAL(epoll_wait(other, found, 4, 0), 1);
    EQUAL(epoll_wait(other, found, 4, 0), 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(epoll_wait(other, found, 4, 0), 0);
    struct epoll_event event = {EPOLLIN | EPOLLONESHOT, {.u64 = 5}};
    CHECK(epoll_ctl(other, EPOLL_CTL_MOD, ends[0], &event) == 0);
    EQUAL(epoll_wait(other, found, 4, 0), 1);
}

static void sets_can_hold_sets(void) {
    int inner = epoll_create1(0), outer = epoll_create1(0);
    struct epoll_event found;
    CHECK(pipe(ends) == 0);
    add(inner, ends[0], EPOLLIN, 0);
    add(outer, inner, EPOLLIN, 9);
    EQUAL(epoll_wait(outer, &found, 1, 0), 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(epoll_wait(outer, &found, 1, 100), 1);
    EQUAL(found.data.u64, 9);
    struct epoll_event event = {EPOLLIN, {.u64 = 0}};
    FAILS(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event), ELOOP);
}

static void *write_later(void *fd) {
    t_sleep_ms(30);
    return (void *)write((int)(long)fd, "x", 1);
}

static void waiting_ends_when_something_comes_or_time_is_up(void) {
    int set = epoll_create1(0);
    struct epoll_event found;
    CHECK(pipe(ends) == 0);
    add(set, ends[0], EPOLLIN, 0);
    int64_t start = t_now_ns();
    EQUAL(epoll_wait(set, &found, 1, 30), 0);
    CHECK(t_now_ns() - start >= 30000000);
    pthread_t thread;
    pthread_create(&thread, NULL, write_later, (void *)(long)ends[1]);
    EQUAL(epoll_wait(set, &found, 1, 10000), 1);
    pthread_join(thread, NULL);
    char c;
    CHECK(read(ends[0], &c, 1) == 1);
    pthread_create(&thread, NULL, write_later, (void *)(long)ends[1]);
    struct pollfd one = {ends[0], POLLIN, 0};
    EQUAL(poll(&one, 1, 10000), 1);
    pthread_join(thread, NULL);
    CHECK(read(ends[0], &c, 1) == 1);
    start = t_now_ns();
    EQUAL(poll(&one, 1, 20), 0);
    CHECK(t_now_ns() - start >= 20000000);
}

static void eventfds_count(void) {
    int fd = eventfd(3, EFD_NONBLOCK), steps = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    uint64_t value = 4;
    EQUAL(write(fd, &value, 8), 8);
    EQUAL(read(fd, &value, 8), 8);
    EQUAL(value, 7);
    FAILS(read(fd, &value, 8), EAGAIN);
    FAILS(read(fd, &value, 4), EINVAL);
    EQUAL(read(steps, &value, 8), 8);
    EQUAL(value, 1);
    EQUAL(read(steps, &value, 8), 8);
    FAILS(read(steps, &value, 8), EAGAIN);
    value = UINT64_MAX;
    FAILS(write(fd, &value, 8), EINVAL);
    value = UINT64_MAX - 1;
    EQUAL(write(fd, &value, 8), 8);
    value = 1;
    FAILS(write(fd, &value, 8), EAGAIN);
    struct pollfd set = {fd, POLLIN | POLLOUT, 0};
    EQUAL(poll(&set, 1, 0), 1);
    EQUAL(set.revents, POLLIN);
}

static void timerfds_expire(void) {
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec timer = {{0, 5000000}, {0, 10000000}}, left;
    CHECK(timerfd_settime(fd, 0, &timer, NULL) == 0);
    uint64_t count;
    EQUAL(read(fd, &count, 8), 8);
    CHECK(count >= 1);
    t_sleep_ms(50);
    EQUAL(read(fd, &count, 8), 8);
    CHECK(count >= 5);
    CHECK(timerfd_gettime(fd, &left) == 0);
    EQUAL(left.it_interval.tv_nsec, 5000000);
    memset(&timer, 0, sizeof timer);
    CHECK(timerfd_settime(fd, 0, &timer, NULL) == 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    FAILS(read(fd, &count, 8), EAGAIN);
    timer.it_value.tv_nsec = 1;
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &timer, NULL) == 0);
    struct pollfd set = {fd, POLLIN, 0};
    EQUAL(poll(&set, 1, 1000), 1);
    FAILS(timerfd_create(99, 0), EINVAL);
}

static void signalfds_read_signals(void) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int fd = signalfd(-1, &mask, SFD_NONBLOCK);
    struct signalfd_siginfo info;
    FAILS(read(fd, &info, sizeof info), EAGAIN);
    kill(getpid(), SIGUSR1);
    struct pollfd set = {fd, POLLIN, 0};
    EQUAL(poll(&set, 1, 1000), 1);
    EQUAL(read(fd, &info, sizeof info), sizeof info);
    EQUAL(info.ssi_signo, SIGUSR1);
    EQUAL(info.ssi_pid, getpid());
    sigset_t pending;
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGUSR1));
}

static volatile sig_atomic_t hits;
static void hit(int number) { hits++; }

static void select_and_pselect(void) {
    CHECK(pipe(ends) == 0);
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(ends[0], &readable);
    FD_SET(ends[1], &writable);
    struct timeval limit = {0, 10000};
    EQUAL(select(ends[1] + 1, &readable, &writable, NULL, &limit), 1);
    CHECK(!FD_ISSET(ends[0], &readable) && FD_ISSET(ends[1], &writable));
    FD_ZERO(&readable);
    FD_SET(ends[0], &readable);
    limit = (struct timeval){0, 10000};
    EQUAL(select(ends[0] + 1, &readable, NULL, NULL, &limit), 0);
    EQUAL(limit.tv_usec, 0);
    FD_ZERO(&readable);
    FD_SET(40, &readable);
    FAILS(select(41, &readable, NULL, NULL, &limit), EBADF);
    /* A signal that is let in only while waiting ends the wait. */
    sigset_t set, none;
    sigemptyset(&set);
    sigemptyset(&none);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, hit);
    raise(SIGUSR1);
    struct timespec second = {1, 0};
    FAILS(pselect(0, NULL, NULL, NULL, &second, &none), EINTR);
    EQUAL(hits, 1);
    raise(SIGUSR1);
    FAILS(ppoll(NULL, 0, &second, &none), EINTR);
    EQUAL(hits, 2);
}

static void inotify_tells_of_changes(void) {
    int fd = inotify_init1(IN_NONBLOCK);
    CHECK(mkdir("watched", 0755) == 0);
    int watch = inotify_add_watch(fd, "watched", IN_CREATE | IN_DELETE | IN_MODIFY);
    CHECK(watch >= 0);
    int file = open("watched/file", O_CREAT | O_WRONLY, 0600);
    CHECK(write(file, "x", 1) == 1);
    unlink("watched/file");
    _Alignas(8) char events[1024];
    long n = read(fd, events, sizeof events), at = 0, all = 0;
    CHECK(n > 0);
    while (at < n) {
        struct inotify_event *event = (void *)(events + at);
        EQUAL(event->wd, watch);
        CHECK(!strcmp(event->name, "file"));
        all |= event->mask;
        at += sizeof *event + event->len;
    }
    EQUAL(all, IN_CREATE | IN_DELETE | IN_MODIFY);
    CHECK(inotify_rm_watch(fd, watch) == 0);
}

static void closed_descriptors_leave_the_set(void) {
    int set = epoll_create1(0);
    struct epoll_event found;
    long rounds = t_scaled(500);
    for (long i = 0; i < rounds; i++) {
        CHECK(pipe(ends) == 0);
        add(set, ends[0], EPOLLIN, i);
        CHECK(write(ends[1], "x", 1) == 1);
        EQUAL(epoll_wait(set, &found, 1, 0), 1);
        EQUAL(found.data.u64, i);
        close(ends[0]);
        close(ends[1]);
        EQUAL(epoll_wait(set, &found, 1, 0), 0);
    }
}

MAIN(CASE(epoll_tells_what_is_ready), CASE(edges_are_told_once), CASE(sets_can_hold_sets),
     CASE(waiting_ends_when_something_comes_or_time_is_up), CASE(eventfds_count), CASE(timerfds_expire), CASE(signalfds_read_signals),
     CASE(select_and_pselect), CASE(inotify_tells_of_changes), CASE(closed_descriptors_leave_the_set))
