#include "t.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static int ends[2];
static void open_pipe(int flags) { CHECK(pipe2(ends, flags) == 0); }

static void bytes_come_in_order(void) {
    open_pipe(0);
    enum { TOTAL = 1 << 20 };
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        unsigned char block[3001];
        long at = 0;
        while (at < TOTAL) {
            long n = 1 + at % 3001;
            if (n > TOTAL - at) n = TOTAL - at;
            for (long i = 0; i < n; i++) block[i] = (at + i) * 7 >> 3;
            CHECK(write(ends[1], block, n) == n);
            at += n;
        }
        _exit(0);
    }
    close(ends[1]);
    unsigned char block[5000];
    long at = 0, n;
    while ((n = read(ends[0], block, 1 + at % 5000)) > 0) {
        for (long i = 0; i < n; i++) EQUAL(block[i], (unsigned char)((at + i) * 7 >> 3));
        at += n;
    }
    EQUAL(n, 0);
    EQUAL(at, TOTAL);
    t_exits(child, 0);
}

static void small_writes_are_whole(void) {
    open_pipe(0);
    enum { WRITERS = 4, EACH = 200, SIZE = 4096 };
    pid_t writers[WRITERS];
    for (int w = 0; w < WRITERS; w++)
        if ((writers[w] = fork()) == 0) {
            char block[SIZE];
            memset(block, 'A' + w, SIZE);
            for (int i = 0; i < EACH; i++) CHECK(write(ends[1], block, SIZE) == SIZE);
            _exit(0);
        }
    close(ends[1]);
    char block[SIZE];
    long total = 0;
    for (;;) {
        long have = 0, n;
        while (have < SIZE && (n = read(ends[0], block + have, SIZE - have)) > 0) have += n;
        if (have == 0) break;
        EQUAL(have, SIZE);
        for (int i = 1; i < SIZE; i++) EQUAL(block[i], block[0]);
        total++;
    }
    EQUAL(total, WRITERS * EACH);
    for (int w = 0; w < WRITERS; w++) t_exits(writers[w], 0);
}

static void the_ends_notice_each_other(void) {
    open_pipe(0);
    char c;
    CHECK(write(ends[1], "ab", 2) == 2);
    close(ends[1]);
    EQUAL(read(ends[0], &c, 1), 1);
    EQUAL(read(ends[0], &c, 1), 1);
    EQUAL(read(ends[0], &c, 1), 0);
    EQUAL(read(ends[0], &c, 1), 0);
    open_pipe(0);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], "x", 1), EPIPE);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        if (write(ends[1], "x", 1) > 0) _exit(1);
        _exit(0);
    }
    t_dies(child, SIGPIPE);
}

static void without_blocking(void) {
    open_pipe(O_NONBLOCK);
    char block[4096], c;
    memset(block, 'x', sizeof block);
    FAILS(read(ends[0], &c, 1), EAGAIN);
    long total = 0, n;
    while ((n = write(ends[1], block, sizeof block)) > 0) total += n;
    EQUAL(n, -1);
    EQUAL(total, 65536);
    EQUAL(fcntl(ends[0], F_GETPIPE_SZ), 65536);
    int left;
    CHECK(ioctl(ends[0], FIONREAD, &left) == 0);
    EQUAL(left, 65536);
    struct pollfd set = {ends[1], POLLOUT, 0};
    EQUAL(poll(&set, 1, 0), 0);
    EQUAL(read(ends[0], block, 4096), 4096);
    EQUAL(poll(&set, 1, 0), 1);
    /* A larger write takes what fits. */
    char *large = malloc(20000);
    memset(large, 'y', 20000);
    EQUAL(write(ends[1], large, 20000), 4096);
}

static void the_size_can_be_changed(void) {
    open_pipe(O_NONBLOCK);
    EQUAL(fcntl(ends[1], F_SETPIPE_SZ, 100000), 131072);
    char *block = calloc(1, 200000);
    EQUAL(write(ends[1], block, 200000), 131072);
    FAILS(fcntl(ends[1], F_SETPIPE_SZ, 4096), EBUSY);
}

static void poll_tells_of_hangup_and_error(void) {
    open_pipe(0);
    struct pollfd set[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}};
    EQUAL(poll(set, 2, 0), 1);
    EQUAL(set[1].revents, POLLOUT);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(poll(set, 2, 0), 2);
    EQUAL(set[0].revents, POLLIN);
    close(ends[1]);
    EQUAL(poll(set, 1, 0), 1);
    EQUAL(set[0].revents, POLLIN | POLLHUP);
    open_pipe(0);
    close(ends[0]);
    set[0] = (struct pollfd){ends[1], POLLOUT, 0};
    EQUAL(poll(set, 1, 0), 1);
    EQUAL(set[0].revents, POLLOUT | POLLERR);
    set[0] = (struct pollfd){99, POLLIN, 0};
    EQUAL(poll(set, 1, 0), 1);
    EQUAL(set[0].revents, POLLNVAL);
}

static void named_pipes_meet(void) {
    CHECK(mkfifo("fifo", 0600) == 0);
    FAILS(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
    pid_t child = fork();
    if (child == 0) {
        int fd = open("fifo", O_WRONLY);
        _exit(write(fd, "through", 7) != 7);
    }
    int fd = open("fifo", O_RDONLY);
    char found[8] = "";
    EQUAL(read(fd, found, 7), 7);
    CHECK(!strcmp(found, "through"));
    EQUAL(read(fd, found, 7), 0);
    t_exits(child, 0);
    int both = open("fifo", O_RDWR);
    CHECK(both >= 0 && write(both, "z", 1) == 1 && read(fd, found, 1) == 1);
}

static void a_pipe_cannot_seek(void) {
    open_pipe(0);
    char c;
    FAILS(lseek(ends[0], 0, SEEK_SET), ESPIPE);
    FAILS(pread(ends[0], &c, 1, 0), ESPIPE);
    FAILS(read(ends[1], &c, 1), EBADF);
    FAILS(write(ends[0], &c, 1), EBADF);
    FAILS(pipe2(ends, 0x40000000), EINVAL);
}

static void tee_copies_bytes(void) {
    int one[2], two[2];
    CHECK(pipe(one) == 0 && pipe(two) == 0);
    CHECK(write(one[1], "hello", 5) == 5);
    EQUAL(tee(one[0], two[1], 5, 0), 5);
    char found[8] = "";
    EQUAL(read(two[0], found, 8), 5);
    EQUAL(read(one[0], found, 8), 5);
}

static void splice_moves_bytes(void) {
    int one[2];
    CHECK(pipe(one) == 0);
    CHECK(write(one[1], "hello", 5) == 5);
    char found[8] = "";
    int fd = open("spliced", O_RDWR | O_CREAT | O_TRUNC, 0600);
    loff_t at = 3;
    EQUAL(splice(one[0], NULL, fd, &at, 5, 0), 5);
    EQUAL(at, 8);
    at = 3;
    EQUAL(splice(fd, &at, one[1], NULL, 100, 0), 5);
    EQUAL(read(one[0], found, 8), 5);
    CHECK(!memcmp(found, "hello", 5));
}

static void a_ring_of_processes_passes_a_token(void) {
    enum { COUNT = 8 };
    int links[COUNT][2];
    pid_t children[COUNT];
    long rounds = t_scaled(500);
    for (int i = 0; i < COUNT; i++) CHECK(pipe(links[i]) == 0);
    for (int i = 0; i < COUNT; i++)
        if ((children[i] = fork()) == 0) {
            int token;
            for (long r = 0; r < rounds; r++) {
                EQUAL(read(links[i][0], &token, sizeof token), sizeof token);
                token++;
                EQUAL(write(links[(i + 1) % COUNT][1], &token, sizeof token), sizeof token);
            }
            _exit(0);
        }
    int token = 0;
    CHECK(write(links[0][1], &token, sizeof token) == sizeof token);
    for (int i = 0; i < COUNT; i++) t_exits(children[i], 0);
    CHECK(read(links[0][0], &token, sizeof token) == sizeof token);
    EQUAL(token, COUNT * rounds);
}

static void a_pipe_can_be_opened_again_by_its_descriptor(void) {
    open_pipe(0);
    char name[64];
    CHECK(write(ends[1], "gone", 4) == 4);
    close(ends[1]);
    /* Nobody writes any more: a named pipe would wait here. */
    snprintf(name, sizeof name, "/proc/self/fd/%d", ends[0]);
    int again = open(name, O_RDONLY);
    CHECK(again >= 0);
    char found[8];
    CHECK(read(again, found, 8) == 4 && !memcmp(found, "gone", 4));
    EQUAL(read(again, found, 8), 0);
    /* A new writer through it counts. */
    int writer = open(name, O_WRONLY);
    CHECK(writer >= 0 && fcntl(again, F_SETFL, O_NONBLOCK) == 0);
    FAILS(read(again, found, 8), EAGAIN);
    EQUAL(fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
    close(writer);
    EQUAL(read(again, found, 8), 0);
}

static volatile sig_atomic_t io_signals, io_fd;
static void on_io(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    io_signals++;
    io_fd = info->si_fd;
}

static void bytes_are_told_by_a_signal(void) {
    open_pipe(0);
    struct sigaction action = {.sa_sigaction = on_io, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
    CHECK(fcntl(ends[0], F_SETOWN, getpid()) == 0 && fcntl(ends[0], F_SETSIG, SIGRTMIN) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(io_signals, 0);
    CHECK(fcntl(ends[0], F_SETFL, O_ASYNC) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(io_signals, 1);
    EQUAL(io_fd, ends[0]);
    CHECK(fcntl(ends[0], F_SETFL, 0) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    EQUAL(io_signals, 1);
}

static void splice_keeps_its_rules(void) {
    int one[2], two[2];
    CHECK(pipe(one) == 0 && pipe2(two, O_NONBLOCK) == 0);
    FAILS(splice(one[0], NULL, one[1], NULL, 5, 0), EINVAL);
    FAILS(tee(one[0], one[1], 5, 0), EINVAL);
    FAILS(splice(two[0], NULL, one[1], NULL, 5, 0), EAGAIN);
    FAILS(splice(one[0], NULL, two[1], NULL, 5, SPLICE_F_NONBLOCK), EAGAIN);
    FAILS(splice(one[1], NULL, two[1], NULL, 5, 0), EBADF);
    loff_t at = 0;
    FAILS(splice(one[0], &at, two[1], NULL, 5, 0), ESPIPE);
    int fd = open("appended", O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600), zero = open("/dev/zero", O_RDONLY);
    CHECK(write(one[1], "hello", 5) == 5);
    FAILS(splice(one[0], NULL, fd, NULL, 5, 0), EINVAL);
    FAILS(splice(fd, NULL, zero, NULL, 5, 0), EBADF);
    FAILS(splice(fd, NULL, fd, NULL, 5, 0), EINVAL);
    EQUAL(splice(one[0], NULL, two[1], NULL, 3, 0), 3);
    char found[8];
    CHECK(read(two[0], found, 8) == 3 && !memcmp(found, "hel", 3));
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    EQUAL(vmsplice(two[1], parts, 2, 0), 5);
    struct iovec back = {found, 8};
    EQUAL(vmsplice(two[0], &back, 1, 0), 5);
    CHECK(!memcmp(found, "abcde", 5));
    FAILS(vmsplice(fd, parts, 2, 0), EBADF);
    close(one[1]);
    CHECK(read(one[0], found, 8) == 2);
    EQUAL(splice(one[0], NULL, two[1], NULL, 5, 0), 0);
    close(two[0]);
    signal(SIGPIPE, SIG_IGN);
    FAILS(splice(zero, NULL, two[1], NULL, 5, 0), EPIPE);
}

MAIN(CASE(a_pipe_can_be_opened_again_by_its_descriptor), CASE(bytes_are_told_by_a_signal), CASE(splice_keeps_its_rules),
     CASE(bytes_come_in_order), CASE(small_writes_are_whole), CASE(the_ends_notice_each_other), CASE(without_blocking),
     CASE(the_size_can_be_changed), CASE(poll_tells_of_hangup_and_error), CASE(named_pipes_meet), CASE(a_pipe_cannot_seek),
     CASE(tee_copies_bytes), CASE(splice_moves_bytes), CASE(a_ring_of_processes_passes_a_token))
