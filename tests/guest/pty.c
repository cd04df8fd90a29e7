#include "t.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char name[64];

static void open_pair(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0);
    CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
    CHECK(ptsname_r(master, name, sizeof name) == 0);
    slave = open(name, O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
}

static void make_raw(void) {
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    cfmakeraw(&t);
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

static void a_locked_slave_does_not_open(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0);
    int number, locked = 0;
    CHECK(ioctl(master, TIOCGPTN, &number) == 0);
    CHECK(ioctl(master, TIOCGPTLCK, &locked) == 0);
    EQUAL(locked, 1);
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    FAILS(open(name, O_RDWR | O_NOCTTY), EIO);
    CHECK(unlockpt(master) == 0);
    slave = open(name, O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
    struct stat found;
    CHECK(fstat(slave, &found) == 0 && S_ISCHR(found.st_mode));
    EQUAL(found.st_rdev >> 8 & 0xfff, 136);
    CHECK(!strcmp(ttyname(slave), name));
    FAILS(ioctl(slave, TIOCGPTN, &number), ENOTTY);
}

static void lines_are_edited_and_echoed(void) {
    open_pair();
    char text[64];
    CHECK(write(master, "ab\177c\n", 5) == 5);
    EQUAL(read(slave, text, sizeof text), 3);
    CHECK(!memcmp(text, "ac\n", 3));
    EQUAL(read(master, text, sizeof text), 8);
    CHECK(!memcmp(text, "ab\b \bc\r\n", 8));
    CHECK(write(slave, "x\n", 2) == 2);
    EQUAL(read(master, text, sizeof text), 3);
    CHECK(!memcmp(text, "x\r\n", 3));
    CHECK(write(master, "\004", 1) == 1);
    EQUAL(read(slave, text, sizeof text), 0);
}

static void raw_bytes_come_as_they_are(void) {
    open_pair();
    make_raw();
    char text[64];
    CHECK(write(master, "a\r\003", 3) == 3);
    EQUAL(read(slave, text, sizeof text), 3);
    CHECK(!memcmp(text, "a\r\003", 3));
    struct pollfd set = {master, POLLIN, 0};
    EQUAL(poll(&set, 1, 0), 0);
    CHECK(write(slave, "\n", 1) == 1);
    EQUAL(poll(&set, 1, 1000), 1);
    EQUAL(read(master, text, sizeof text), 1);
}

static void much_goes_through(void) {
    open_pair();
    make_raw();
    enum { TOTAL = 200000 };
    pid_t child = fork();
    if (child == 0) {
        close(master);
        unsigned char block[777];
        for (long at = 0; at < TOTAL;) {
            long n = TOTAL - at < 777 ? TOTAL - at : 777;
            for (long i = 0; i < n; i++) block[i] = (at + i) * 7 >> 3;
            n = write(slave, block, n);
            CHECK(n > 0);
            at += n;
        }
        _exit(0);
    }
    close(slave);
    unsigned char block[5000];
    long at = 0, n;
    while ((n = read(master, block, sizeof block)) > 0) {
        for (long i = 0; i < n; i++) EQUAL(block[i], (unsigned char)((at + i) * 7 >> 3));
        at += n;
    }
    EQUAL(errno, EIO);
    EQUAL(at, TOTAL);
    t_exits(child, 0);
}

static void a_master_without_slave_reads_eio(void) {
    open_pair();
    char c;
    CHECK(write(slave, "z", 1) == 1);
    close(slave);
    struct pollfd set = {master, POLLIN, 0};
    EQUAL(poll(&set, 1, 0), 1);
    EQUAL(set.revents, POLLIN | POLLHUP);
    EQUAL(read(master, &c, 1), 1);
    FAILS(read(master, &c, 1), EIO);
    slave = open(name, O_RDWR | O_NOCTTY);
    CHECK(slave >= 0 && fcntl(master, F_SETFL, O_NONBLOCK) == 0);
    FAILS(read(master, &c, 1), EAGAIN);
}

static void a_slave_without_master_is_dead(void) {
    open_pair();
    close(master);
    char c;
    EQUAL(read(slave, &c, 1), 0);
    FAILS(write(slave, "x", 1), EIO);
    FAILS(tcflush(slave, TCIFLUSH), EIO);
    FAILS(open(name, O_RDWR | O_NOCTTY), ENOENT);
}

static void packets_begin_with_a_status(void) {
    open_pair();
    make_raw();
    int on = 1;
    char text[16];
    CHECK(ioctl(master, TIOCPKT, &on) == 0);
    CHECK(write(slave, "hi", 2) == 2);
    EQUAL(read(master, text, sizeof text), 3);
    CHECK(!memcmp(text, "\0hi", 3));
    CHECK(tcflush(slave, TCIFLUSH) == 0);
    EQUAL(read(master, text, sizeof text), 1);
    EQUAL(text[0], TIOCPKT_FLUSHREAD);
}

static volatile sig_atomic_t resized;
static void on_resize(int signal) { resized = signal; }

static void own_terminal(void) {
    CHECK(setsid() > 0);
    CHECK(ioctl(slave, TIOCSCTTY, 0) == 0);
    EQUAL(tcgetpgrp(slave), getpid());
    EQUAL(tcgetsid(slave), getpid());
}

static void a_new_size_is_told(void) {
    open_pair();
    struct winsize size = {24, 80, 0, 0}, found;
    CHECK(ioctl(master, TIOCSWINSZ, &size) == 0);
    CHECK(ioctl(slave, TIOCGWINSZ, &found) == 0);
    EQUAL(found.ws_row, 24);
    EQUAL(found.ws_col, 80);
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGWINCH, on_resize);
        own_terminal();
        CHECK(write(ready[1], "", 1) == 1);
        for (int i = 0; i < 500 && !resized; i++) t_sleep_ms(10);
        _exit(!resized);
    }
    char c;
    CHECK(read(ready[0], &c, 1) == 1);
    size.ws_col = 100;
    CHECK(ioctl(master, TIOCSWINSZ, &size) == 0);
    t_exits(child, 0);
}

static pid_t sleeper(void) {
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(master);
        own_terminal();
        int tty = open("/dev/tty", O_RDWR);
        CHECK(tty >= 0 && write(ready[1], "", 1) == 1);
        for (;;) pause();
    }
    char c;
    CHECK(read(ready[0], &c, 1) == 1);
    return child;
}

static void closing_the_master_hangs_up(void) {
    open_pair();
    pid_t child = sleeper();
    close(master);
    t_dies(child, SIGHUP);
}

static void typed_characters_signal(void) {
    open_pair();
    pid_t child = sleeper();
    EQUAL(tcgetpgrp(master), child);
    CHECK(write(master, "\003", 1) == 1);
    t_dies(child, SIGINT);
}

MAIN(CASE(a_locked_slave_does_not_open), CASE(lines_are_edited_and_echoed), CASE(raw_bytes_come_as_they_are), CASE(much_goes_through),
     CASE(a_master_without_slave_reads_eio), CASE(a_slave_without_master_is_dead), CASE(packets_begin_with_a_status),
     CASE(a_new_size_is_told), CASE(closing_the_master_hangs_up), CASE(typed_characters_signal))
