/* Descriptors and credentials that go with messages: SCM_RIGHTS, SCM_CREDENTIALS, SO_PEERCRED, SO_PEEK_OFF. unix(7). */
#include "socket_check.h"
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static void rights(void)
{
    int s[2], p[2], got[300], n, flags;
    char b[64];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    if (pipe(p))
        return;
    CHECK("a descriptor is sent", send_fds(s[0], "x", 1, p, 2) == 1);
    n = 300;
    CHECK("and received", receive_fds(s[1], b, 64, got, &n, MSG_CMSG_CLOEXEC, &flags) == 1 && n == 2 && flags == MSG_CMSG_CLOEXEC);
    CHECK("with its flag", fcntl(got[0], F_GETFD) == FD_CLOEXEC);
    CHECK("it is the same file", write(got[1], "through", 7) == 7 && read(p[0], b, 64) == 7);
    close(got[0]);
    close(got[1]);
    write(s[0], "before", 6);
    send_fds(s[0], "with", 4, p, 1);
    write(s[0], "after", 5);
    n = 300;
    CHECK("bytes behind a descriptor are not read with it", receive_fds(s[1], b, 64, got, &n, 0, 0) == 10 && n == 1 && !memcmp(b, "beforewith", 10));
    close(got[0]);
    n = 300;
    CHECK("but after it", receive_fds(s[1], b, 64, got, &n, 0, 0) == 5 && n == 0);
    send_fds(s[0], "xy", 2, p, 1);
    n = 300;
    CHECK("a peek gives copies", receive_fds(s[1], b, 64, got, &n, MSG_PEEK, 0) == 2 && n == 1);
    close(got[0]);
    n = 300;
    CHECK("part of the bytes brings them all", receive_fds(s[1], b, 1, got, &n, 0, 0) == 1 && n == 1);
    close(got[0]);
    n = 300;
    CHECK("the rest brings none", receive_fds(s[1], b, 1, got, &n, 0, 0) == 1 && n == 0);
    int three[3] = { p[0], p[1], s[0] };
    send_fds(s[0], "x", 1, three, 3);
    n = 2;
    CHECK("what there is no room for is closed and told", receive_fds(s[1], b, 64, got, &n, 0, &flags) == 1 && n == 2 && (flags & MSG_CTRUNC));
    close(got[0]);
    close(got[1]);
    send_fds(s[0], "x", 1, p, 1);
    CHECK("read loses them", read(s[1], b, 64) == 1);
    int bad = 99;
    CHECK("a bad descriptor", FAILS(send_fds(s[0], "x", 1, &bad, 1), EBADF));
    for (int i = 0; i < 300; i++)
        got[i] = p[0];
    CHECK("254 are too many", FAILS(send_fds(s[0], "x", 1, got, 254), EINVAL));
    CHECK("253 are not", send_fds(s[0], "x", 1, got, 253) == 1);
    n = 300;
    CHECK("and arrive", receive_fds(s[1], b, 64, got, &n, 0, 0) == 1 && n == 253);
    for (int i = 0; i < 253; i++)
        close(got[i]);
    int d[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, d);
    send_fds(d[0], "", 0, p, 1);
    n = 300;
    CHECK("an empty datagram brings one", receive_fds(d[1], b, 64, got, &n, 0, 0) == 0 && n == 1);
    close(got[0]);
    send_fds(d[0], "z", 1, &p[1], 1);
    close(p[1]);
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    CHECK("a descriptor in flight keeps its file open", FAILS(read(p[0], b, 1), EAGAIN));
    close(d[1]);
    CHECK("until its queue goes", read(p[0], b, 1) == 0);
    close(d[0]);
    close(s[0]);
    close(s[1]);
    close(p[0]);
}

/* Descriptors that only each other's queues hold must go; the pipe tells. */
static void rings(void)
{
    int a[2], b[2], p[2];
    char byte;
    pipe2(p, O_NONBLOCK);
    socketpair(AF_UNIX, SOCK_STREAM, 0, a);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, b);
    int in_a[2] = { a[0], b[0] }, in_b[2] = { a[0], p[1] };
    send_fds(a[1], "x", 1, in_a, 2);
    send_fds(b[1], "x", 1, in_b, 2);
    close(p[1]);
    close(a[0]);
    close(b[0]);
    CHECK("a ring with somebody outside lives", FAILS(read(p[0], &byte, 1), EAGAIN));
    close(a[1]);
    close(b[1]);
    /* Linux collects in the background. */
    int n = -1;
    for (int i = 0; i < 200 && n != 0; i++) {
        n = read(p[0], &byte, 1);
        usleep(5000);
        int again[2];
        if (n != 0 && !socketpair(AF_UNIX, SOCK_STREAM, 0, again)) {
            close(again[0]);
            close(again[1]);
        }
    }
    CHECK("a ring that nobody can reach is collected", n == 0);
    close(p[0]);

    /* A connection that nobody accepted, in its own listener's backlog. */
    struct sockaddr_un name;
    socklen_t len = abstract_address(&name, "socket_rights ring");
    pipe2(p, O_NONBLOCK);
    int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&name, len);
    listen(l, 1);
    connect(c, (void *)&name, len);
    int in_c[2] = { l, p[1] };
    send_fds(c, "x", 1, in_c, 2);
    close(p[1]);
    close(l);
    close(c);
    n = -1;
    for (int i = 0; i < 200 && n != 0; i++) {
        n = read(p[0], &byte, 1);
        usleep(5000);
        int again[2];
        if (n != 0 && !socketpair(AF_UNIX, SOCK_STREAM, 0, again)) {
            close(again[0]);
            close(again[1]);
        }
    }
    CHECK("a listener in its own backlog is collected", n == 0);
    close(p[0]);
}

static void limits(void)
{
    if (geteuid() != 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit r = { 64, 64 };
        int s[2], pushed = 0;
        setrlimit(RLIMIT_NOFILE, &r);
        if (setresuid(12345, 12345, 12345))
            _exit(2);
        socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
        while (pushed < 1000 && send_fds(s[0], "x", 1, s, 1) == 1)
            pushed++;
        _exit(!(pushed >= 64 && pushed <= 66 && errno == ETOOMANYREFS));
    }
    int status;
    waitpid(child, &status, 0);
    CHECK("a user has no more in flight than RLIMIT_NOFILE", status == 0);
}

/* Receives a byte and the credentials that come with it. */
static int receive_credentials(int s, struct ucred *c)
{
    char b, control[CMSG_SPACE(sizeof *c)];
    struct iovec iov = { &b, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    if (recvmsg(s, &m, 0) < 0)
        return -1;
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h || h->cmsg_type != SCM_CREDENTIALS || h->cmsg_len != CMSG_LEN(sizeof *c))
        return 0;
    memcpy(c, CMSG_DATA(h), sizeof *c);
    return 1;
}

static ssize_t send_credentials(int s, struct ucred c)
{
    char control[CMSG_SPACE(sizeof c)] = { 0 };
    struct iovec iov = { "c", 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_CREDENTIALS;
    h->cmsg_len = CMSG_LEN(sizeof c);
    memcpy(CMSG_DATA(h), &c, sizeof c);
    return sendmsg(s, &m, 0);
}

static void credentials(void)
{
    int s[2], types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
    struct ucred c = { 0 };
    for (int i = 0; i < 3; i++) {
        socketpair(AF_UNIX, types[i], 0, s);
        write(s[0], "x", 1);
        CHECK("none without SO_PASSCRED", receive_credentials(s[1], &c) == 0);
        set_option(s[1], SO_PASSCRED, 1);
        CHECK("SO_PASSCRED", option(s[1], SO_PASSCRED) == 1);
        write(s[0], "x", 1);
        CHECK("one's own", receive_credentials(s[1], &c) == 1 && c.pid == getpid() && c.uid == getuid() && c.gid == getgid());
        pid_t child = fork();
        if (child == 0) {
            write(s[0], "x", 1);
            _exit(0);
        }
        waitpid(child, 0, 0);
        CHECK("another process's", receive_credentials(s[1], &c) == 1 && c.pid == child);
        if (geteuid() == 0) {
            struct ucred said = { 1, 5, 6 };
            CHECK("root may say anything that exists", send_credentials(s[0], said) == 1 && receive_credentials(s[1], &c) == 1 && !memcmp(&c, &said, sizeof c));
        }
        child = fork();
        if (child == 0) {
            if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
                _exit(2);
            struct ucred own = { getpid(), 1000, 1000 }, other = { getpid(), 0, 1000 }, parent = { getppid(), 1000, 1000 };
            _exit(!(send_credentials(s[0], own) == 1 && FAILS(send_credentials(s[0], other), EPERM) && FAILS(send_credentials(s[0], parent), EPERM)));
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (geteuid() == 0)
            CHECK("others only the truth", status == 0 && receive_credentials(s[1], &c) == 1 && c.uid == 1000);
        close(s[0]);
        close(s[1]);
    }
    /* Bytes of two senders are not mixed when it matters who sent them. */
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    set_option(s[1], SO_PASSCRED, 1);
    write(s[0], "aa", 2);
    pid_t child = fork();
    if (child == 0) {
        write(s[0], "bb", 2);
        _exit(0);
    }
    waitpid(child, 0, 0);
    char b[16];
    CHECK("two senders are two reads", read(s[1], b, 16) == 2 && b[0] == 'a' && read(s[1], b, 16) == 2 && b[0] == 'b');
    close(s[0]);
    close(s[1]);

    struct sockaddr_un a;
    socklen_t len = abstract_address(&a, "socket_rights peer"), n;
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&a, len);
    listen(l, 1);
    child = fork();
    if (child == 0) {
        int c = socket(AF_UNIX, SOCK_STREAM, 0);
        connect(c, (void *)&a, len);
        read(c, b, 1);
        _exit(0);
    }
    int conn = accept(l, 0, 0);
    n = sizeof c;
    CHECK("SO_PEERCRED of who connected", getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0 && c.pid == child);
    int pidfd = -1;
    n = sizeof pidfd;
    int r = getsockopt(conn, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &n);
    if (r == 0) {
        CHECK("SO_PEERPIDFD is a descriptor of it", polled(pidfd, POLLIN) == 0 && (fcntl(pidfd, F_GETFD) & FD_CLOEXEC));
        close(conn);
        struct pollfd f = { pidfd, POLLIN, 0 };
        CHECK("which tells its end", poll(&f, 1, 5000) == 1);
        close(pidfd);
    } else {
        close(conn);
    }
    waitpid(child, 0, 0);
    close(l);
}

static void peeking(void)
{
    int s[2], types[] = { SOCK_STREAM, SOCK_DGRAM };
    char b[16];
    for (int i = 0; i < 2; i++) {
        socketpair(AF_UNIX, types[i], 0, s);
        CHECK("SO_PEEK_OFF is off", option(s[1], SO_PEEK_OFF) == -1 && set_option(s[1], SO_PEEK_OFF, 0) == 0);
        write(s[0], "abcdef", 6);
        CHECK("peeks go on", recv(s[1], b, 4, MSG_PEEK) == 4 && recv(s[1], b, 4, MSG_PEEK) == 2 && !memcmp(b, "ef", 2));
        CHECK("to the end", FAILS(recv(s[1], b, 4, MSG_PEEK | MSG_DONTWAIT), EAGAIN) && option(s[1], SO_PEEK_OFF) == 6);
        write(s[0], "gh", 2);
        CHECK("and further", recv(s[1], b, 4, MSG_PEEK) == 2 && !memcmp(b, "gh", 2));
        CHECK("reading goes back", recv(s[1], b, 6, 0) == 6 && option(s[1], SO_PEEK_OFF) == 2 && recv(s[1], b, 6, 0) == 2 && option(s[1], SO_PEEK_OFF) == 0);
        close(s[0]);
        close(s[1]);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    rights();
    rings();
    limits();
    credentials();
    peeking();
    return done("socket_rights");
}
