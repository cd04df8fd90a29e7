/* Stream sockets of AF_UNIX: pairs, names, connections, shutdown, readiness, waiting. unix(7), socket(7). */
#include "socket_check.h"

static volatile int pipes, alarms;
static void on_pipe(int signal) { (void)signal; pipes++; }
static void on_alarm(int signal) { (void)signal; alarms++; }

static void pairs(void)
{
    int s[2];
    char b[64];
    void *volatile bad = (void *)16;
    CHECK("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK("bytes go one way", write(s[0], "hello", 5) == 5 && read(s[1], b, 64) == 5 && !memcmp(b, "hello", 5));
    CHECK("and the other", write(s[1], "abc", 3) == 3 && write(s[1], "def", 3) == 3 && read(s[0], b, 64) == 6 && !memcmp(b, "abcdef", 6));
    CHECK("a peek takes nothing", write(s[0], "xyz", 3) == 3 && recv(s[1], b, 2, MSG_PEEK) == 2 && recv(s[1], b, 64, 0) == 3 && !memcmp(b, "xyz", 3));
    CHECK("nothing there is EAGAIN", FAILS(recv(s[1], b, 1, MSG_DONTWAIT), EAGAIN));
    int n = -1;
    write(s[0], "12345", 5);
    CHECK("SIOCINQ", ioctl(s[1], FIONREAD, &n) == 0 && n == 5);
    CHECK("SIOCOUTQ counts what is not read", ioctl(s[0], TIOCOUTQ, &n) == 0 && n >= 5);
    read(s[1], b, 64);
    CHECK("and nothing once it is", ioctl(s[0], TIOCOUTQ, &n) == 0 && n == 0);
    CHECK("types", option(s[0], SO_TYPE) == SOCK_STREAM && option(s[0], SO_DOMAIN) == AF_UNIX && option(s[0], SO_PROTOCOL) == 0 && option(s[0], SO_ACCEPTCONN) == 0);
    struct ucred c;
    socklen_t len = sizeof c;
    CHECK("SO_PEERCRED of a pair is oneself", getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &c, &len) == 0 && c.pid == getpid() && c.uid == geteuid() && c.gid == getegid());
    struct stat st;
    CHECK("fstat says socket", fstat(s[0], &st) == 0 && S_ISSOCK(st.st_mode));
    CHECK("a socket has no position", FAILS(lseek(s[0], 0, SEEK_SET), ESPIPE) && FAILS(pread(s[0], b, 1, 0), ESPIPE));
    struct sockaddr_un a;
    len = sizeof a;
    CHECK("a pair has no names", getsockname(s[0], (void *)&a, &len) == 0 && len == 2 && a.sun_family == AF_UNIX);
    CHECK("writable, not readable", polled(s[0], POLLIN | POLLOUT) == POLLOUT);
    CHECK("sending to an address when connected", FAILS(sendto(s[0], "x", 1, 0, (void *)&a, 2), EISCONN));
    CHECK("unknown option", FAILS(set_option(s[0], 9999, 1), ENOPROTOOPT));
    CHECK("a bad buffer", FAILS(write(s[0], bad, 5), EFAULT));
    write(s[0], "q", 1);
    CHECK("reading to a bad buffer keeps the data", FAILS(read(s[1], bad, 5), EFAULT) && read(s[1], b, 5) == 1);

    CHECK("shutdown of one half", shutdown(s[0], SHUT_WR) == 0 && read(s[1], b, 1) == 0);
    CHECK("its events", polled(s[1], POLLIN | POLLRDHUP | POLLOUT) == (POLLIN | POLLRDHUP | POLLOUT));
    pipes = 0;
    CHECK("writing there is EPIPE and SIGPIPE", FAILS(write(s[0], "x", 1), EPIPE) && pipes == 1);
    CHECK("but not with MSG_NOSIGNAL", FAILS(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE) && pipes == 1);
    CHECK("the other half works", write(s[1], "x", 1) == 1 && read(s[0], b, 9) == 1);
    CHECK("both halves are a hang-up", shutdown(s[1], SHUT_WR) == 0 && polled(s[0], POLLIN) == (POLLIN | POLLHUP));
    close(s[0]);
    close(s[1]);

    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[1], "left", 4);
    close(s[1]);
    CHECK("what was sent before the end is read", polled(s[0], POLLIN | POLLRDHUP) == (POLLIN | POLLHUP | POLLRDHUP) && read(s[0], b, 64) == 4 && read(s[0], b, 64) == 0);
    close(s[0]);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "unread", 6);
    close(s[1]);
    CHECK("data that nobody read is ECONNRESET", (polled(s[0], 0) & POLLERR) && FAILS(read(s[0], b, 1), ECONNRESET) && read(s[0], b, 1) == 0);
    close(s[0]);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "unread", 6);
    close(s[1]);
    CHECK("SO_ERROR tells it once", option(s[0], SO_ERROR) == ECONNRESET && option(s[0], SO_ERROR) == 0);
    close(s[0]);
}

static void names(void)
{
    struct sockaddr_un a, b;
    socklen_t len, got;
    char buffer[16];
    unlink("/tmp/socket_stream_name");
    int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK("flags of socket", fcntl(l, F_GETFD) == FD_CLOEXEC && (fcntl(l, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDWR);
    CHECK("an unconnected stream is writable and hung up", polled(l, POLLIN | POLLOUT) == (POLLOUT | POLLHUP));
    CHECK("and can't be used", FAILS(send(l, "x", 1, MSG_NOSIGNAL), ENOTCONN) && FAILS(recv(l, buffer, 1, 0), EINVAL));
    len = path_address(&a, "/tmp/socket_stream_name");
    CHECK("nobody is there", FAILS(connect(l, (void *)&a, len), ENOENT));
    CHECK("listening needs a name", FAILS(listen(l, 5), EINVAL));
    umask(027);
    CHECK("bind to a path", bind(l, (void *)&a, len) == 0);
    struct stat st;
    CHECK("is a socket in the tree, with the umask", stat("/tmp/socket_stream_name", &st) == 0 && st.st_mode == (S_IFSOCK | 0750));
    CHECK("opening it", FAILS(open("/tmp/socket_stream_name", O_RDWR), ENXIO));
    CHECK("the same name again", FAILS(bind(l, (void *)&a, len), EADDRINUSE));
    len = path_address(&b, "/tmp/socket_stream_name2");
    CHECK("a second name, which is not made", FAILS(bind(l, (void *)&b, len), EINVAL) && FAILS(stat(b.sun_path, &st), ENOENT));
    len = path_address(&a, "/tmp/socket_stream_name");
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK("a taken name", FAILS(bind(other, (void *)&a, len), EADDRINUSE));
    CHECK("nobody listens", FAILS(connect(other, (void *)&a, len), ECONNREFUSED));
    int dgram = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK("the wrong type", FAILS(connect(dgram, (void *)&a, len), EPROTOTYPE));
    close(dgram);
    CHECK("accept without listen", FAILS(accept(l, 0, 0), EINVAL));
    CHECK("listen", listen(l, 1) == 0 && option(l, SO_ACCEPTCONN) == 1);
    CHECK("a listening socket is not writable", polled(l, POLLIN | POLLOUT) == 0);
    CHECK("connect", connect(other, (void *)&a, len) == 0);
    CHECK("again", FAILS(connect(other, (void *)&a, len), EISCONN));
    CHECK("sending before accept", write(other, "early", 5) == 5);
    CHECK("a connection waits", polled(l, POLLIN) == POLLIN);
    int more = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), most = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK("the backlog holds one more than asked", connect(more, (void *)&a, len) == 0 && FAILS(connect(most, (void *)&a, len), EAGAIN));
    close(most);
    got = sizeof b;
    int conn = accept4(l, (void *)&b, &got, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK("accept", conn >= 0 && got == 2 && b.sun_family == AF_UNIX);
    CHECK("its flags", fcntl(conn, F_GETFD) == FD_CLOEXEC && (fcntl(conn, F_GETFL) & O_NONBLOCK));
    CHECK("the early bytes", read(conn, buffer, 16) == 5 && FAILS(read(conn, buffer, 16), EAGAIN));
    got = sizeof b;
    CHECK("the accepted has the listener's name", getsockname(conn, (void *)&b, &got) == 0 && got == len && !strcmp(b.sun_path, a.sun_path));
    got = 8;
    memset(&b, 0, sizeof b);
    CHECK("the peer's name, cut off", getpeername(other, (void *)&b, &got) == 0 && got == len && !memcmp(b.sun_path, "/tmp/s", 6) && b.sun_path[6] == 0);
    CHECK("closing the listener refuses who waits", close(l) == 0 && FAILS(read(more, buffer, 1), ECONNRESET));
    CHECK("the name stays and refuses", FAILS(connect(more, (void *)&a, len), ECONNREFUSED));
    CHECK("what was accepted lives", write(conn, "x", 1) == 1 && read(other, buffer, 2) == 1);
    close(conn);
    close(other);
    close(more);
    unlink("/tmp/socket_stream_name");

    l = socket(AF_UNIX, SOCK_STREAM, 0);
    len = abstract_address(&a, "socket_stream test");
    CHECK("bind to an abstract name", bind(l, (void *)&a, len) == 0 && listen(l, 0) == 0);
    other = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK("its length counts", FAILS(connect(other, (void *)&a, len - 1), ECONNREFUSED) && connect(other, (void *)&a, len) == 0);
    got = sizeof b;
    CHECK("the peer's abstract name", getpeername(other, (void *)&b, &got) == 0 && got == len && !memcmp(&a, &b, len));
    struct ucred c;
    got = sizeof c;
    CHECK("SO_PEERCRED", getsockopt(other, SOL_SOCKET, SO_PEERCRED, &c, &got) == 0 && c.pid == getpid());
    most = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK("a taken abstract name", FAILS(bind(most, (void *)&a, len), EADDRINUSE));
    close(l);
    CHECK("is free when its socket is gone", bind(most, (void *)&a, len) == 0);
    close(most);
    close(other);
    l = socket(AF_UNIX, SOCK_STREAM, 0);
    sa_family_t family = AF_UNIX;
    got = sizeof b;
    CHECK("autobind gives five digits", bind(l, (void *)&family, 2) == 0 && getsockname(l, (void *)&b, &got) == 0 && got == 8 && b.sun_path[0] == 0);
    close(l);
    CHECK("wrong family", FAILS(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT) && FAILS(socket(AF_UNIX, SOCK_STREAM, 77), EPROTONOSUPPORT));
    CHECK("not a socket", FAILS(listen(0, 1), ENOTSOCK) && FAILS(listen(99, 1), EBADF));
}

static void *writer(void *arg)
{
    int fd = *(int *)arg;
    static char block[100000];
    size_t total = 0;
    for (int round = 0; round < 40; round++) {
        for (size_t i = 0; i < sizeof block; i++)
            block[i] = (total + i) % 251;
        if (write(fd, block, sizeof block) != sizeof block)
            return (void *)1;
        total += sizeof block;
    }
    shutdown(fd, SHUT_WR);
    return 0;
}

static void *late(void *arg)
{
    int fd = *(int *)arg;
    for (int i = 0; i < 10; i++) {
        usleep(2000);
        write(fd, "0123456789", 10);
    }
    return 0;
}

static void waiting(void)
{
    int s[2];
    static char block[70000];
    pthread_t thread;
    void *result;
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    pthread_create(&thread, 0, writer, &s[0]);
    size_t total = 0;
    int good = 1;
    ssize_t n;
    while ((n = read(s[1], block, total % 3 ? 977 : sizeof block)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            good &= block[i] == (char)((total + i) % 251);
        total += n;
    }
    pthread_join(thread, &result);
    CHECK("four million bytes in order", good && n == 0 && total == 4000000 && !result);
    close(s[0]);
    close(s[1]);

    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    pthread_create(&thread, 0, late, &s[0]);
    CHECK("MSG_WAITALL waits for all", recv(s[1], block, 100, MSG_WAITALL) == 100 && !memcmp(block + 90, "0123456789", 10));
    pthread_join(thread, 0);
    pthread_create(&thread, 0, late, &s[0]);
    set_option(s[1], SO_RCVLOWAT, 35);
    CHECK("SO_RCVLOWAT waits for that much", recv(s[1], block, 100, 0) >= 35);
    set_option(s[1], SO_RCVLOWAT, 1);
    pthread_join(thread, 0);
    while (recv(s[1], block, 100, MSG_DONTWAIT) > 0)
        ;

    struct timeval t = { 0, 30000 };
    setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK("SO_RCVTIMEO", FAILS(read(s[1], block, 1), EAGAIN));
    clock_gettime(CLOCK_MONOTONIC, &after);
    long us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    CHECK("takes its time", us >= 30000 && us < 3000000);

    fcntl(s[0], F_SETFL, O_NONBLOCK);
    total = 0;
    while ((n = write(s[0], block, 10000)) > 0)
        total += n;
    int why = errno;
    CHECK("a full socket is EAGAIN", n == -1 && why == EAGAIN && total >= 100000 && total < 600000);
    CHECK("and not writable", polled(s[0], POLLOUT) == 0);
    while (total > 0 && (n = read(s[1], block, sizeof block)) > 0)
        total -= n;
    CHECK("empty again it is", total == 0 && polled(s[0], POLLOUT) == POLLOUT);
    fcntl(s[0], F_SETFL, 0);

    struct sigaction sa = { .sa_handler = on_alarm };
    sigaction(SIGALRM, &sa, 0);
    struct itimerval timer = { { 0, 0 }, { 0, 20000 } };
    t.tv_usec = 0;
    setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    alarms = 0;
    if (setitimer(ITIMER_REAL, &timer, 0) == 0)
        CHECK("a signal interrupts a wait", FAILS(read(s[1], block, 1), EINTR) && alarms == 1);

    int ep = epoll_create1(0);
    if (ep >= 0) {
        struct epoll_event e = { .events = EPOLLIN | EPOLLET | EPOLLRDHUP }, out;
        epoll_ctl(ep, EPOLL_CTL_ADD, s[1], &e);
        CHECK("epoll: nothing yet", epoll_wait(ep, &out, 1, 0) == 0);
        write(s[0], "x", 1);
        CHECK("epoll: an edge", epoll_wait(ep, &out, 1, 1000) == 1 && out.events == EPOLLIN);
        CHECK("epoll: once", epoll_wait(ep, &out, 1, 0) == 0);
        write(s[0], "x", 1);
        CHECK("epoll: the next edge", epoll_wait(ep, &out, 1, 1000) == 1 && out.events == EPOLLIN);
        close(s[0]);
        CHECK("epoll: the end", epoll_wait(ep, &out, 1, 1000) == 1 && out.events == (EPOLLIN | EPOLLRDHUP | EPOLLHUP));
        close(ep);
    }
    close(s[1]);
}

static void processes(void)
{
    struct sockaddr_un a;
    socklen_t len = abstract_address(&a, "socket_stream server");
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&a, len);
    listen(l, 1);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 20; i++) {
            int c = socket(AF_UNIX, SOCK_STREAM, 0);
            char b[8];
            if (connect(c, (void *)&a, len) || write(c, "ping", 4) != 4 || read(c, b, 8) != 4)
                _exit(1);
            close(c);
        }
        _exit(0);
    }
    int good = 1;
    for (int i = 0; i < 20; i++) {
        char b[8];
        int c = accept(l, 0, 0);
        struct ucred u;
        socklen_t n = sizeof u;
        good &= getsockopt(c, SOL_SOCKET, SO_PEERCRED, &u, &n) == 0 && u.pid == child;
        good &= read(c, b, 8) == 4 && write(c, "pong", 4) == 4;
        good &= read(c, b, 8) == 0;
        close(c);
    }
    int status;
    CHECK("twenty connections of another process", waitpid(child, &status, 0) == child && status == 0 && good);
    close(l);
}

int main(void)
{
    signal(SIGPIPE, on_pipe);
    mkdir("/tmp", 0777);
    pairs();
    names();
    waiting();
    processes();
    return done("socket_stream");
}
