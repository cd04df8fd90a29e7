/* Datagram and sequenced-packet sockets of AF_UNIX, and calls with several messages. unix(7), sendmmsg(2), recvmmsg(2). */
#include "socket_check.h"

static void *drain_later(void *arg)
{
    char b[64];
    usleep(20000);
    return (void *)(long)recv(*(int *)arg, b, 64, 0);
}

static void datagrams(void)
{
    struct sockaddr_un a, b, from;
    socklen_t la = abstract_address(&a, "socket_datagram a"), lb = abstract_address(&b, "socket_datagram b"), len;
    int s = socket(AF_UNIX, SOCK_DGRAM, 0), t = socket(AF_UNIX, SOCK_DGRAM, 0), u = socket(AF_UNIX, SOCK_DGRAM, 0);
    char buffer[256];
    static char big[300000];
    CHECK("no destination", FAILS(send(s, "x", 1, 0), ENOTCONN));
    CHECK("nobody there", FAILS(sendto(s, "x", 1, 0, (void *)&a, la), ECONNREFUSED));
    CHECK("bind", bind(t, (void *)&a, la) == 0 && bind(s, (void *)&b, lb) == 0);
    CHECK("sendto", sendto(s, "first", 5, 0, (void *)&a, la) == 5 && sendto(u, "second", 6, 0, (void *)&a, la) == 6);
    len = sizeof from;
    CHECK("recvfrom tells who", recvfrom(t, buffer, 256, 0, (void *)&from, &len) == 5 && len == lb && !memcmp(&from, &b, lb));
    len = sizeof from;
    CHECK("or nobody", recvfrom(t, buffer, 256, 0, (void *)&from, &len) == 6 && len == 0);
    CHECK("listen and accept", FAILS(listen(t, 1), EOPNOTSUPP) && FAILS(accept(t, 0, 0), EOPNOTSUPP));
    CHECK("connect", connect(s, (void *)&a, la) == 0 && send(s, "connected", 9, 0) == 9);
    CHECK("what does not fit is cut off", recv(t, buffer, 4, 0) == 4 && FAILS(recv(t, buffer, 4, MSG_DONTWAIT), EAGAIN));
    send(s, "longer", 6, 0);
    CHECK("MSG_TRUNC tells the length", recv(t, buffer, 2, MSG_TRUNC | MSG_PEEK) == 6 && recv(t, buffer, 2, MSG_TRUNC) == 6);
    send(s, "", 0, 0);
    CHECK("an empty datagram", polled(t, POLLIN) == POLLIN && recv(t, buffer, 9, 0) == 0 && polled(t, POLLIN) == 0);
    CHECK("a connected socket takes from its peer only", connect(t, (void *)&b, lb) == 0 && FAILS(sendto(u, "x", 1, 0, (void *)&a, la), EPERM) && FAILS(connect(u, (void *)&a, la), EPERM));
    struct sockaddr none = { .sa_family = AF_UNSPEC };
    CHECK("AF_UNSPEC disconnects", connect(t, &none, sizeof none) == 0 && sendto(u, "x", 1, 0, (void *)&a, la) == 1 && recv(t, buffer, 9, 0) == 1);
    CHECK("too long", FAILS(send(s, big, sizeof big, 0), EMSGSIZE));
    CHECK("a large one", send(s, big, 100000, 0) == 100000 && recv(t, big, sizeof big, 0) == 100000);
    int n = 0;
    while (send(u, "x", 1, MSG_DONTWAIT) == -1 && errno == ENOTCONN && n++ < 1)
        connect(u, (void *)&a, la);
    for (n = 1; send(u, "fill", 4, MSG_DONTWAIT) == 4; n++)
        ;
    CHECK("eleven fit", n == 11);
    CHECK("a full peer is not writable", polled(u, POLLOUT) == 0);
    int reader = t;
    pthread_t thread;
    void *got;
    pthread_create(&thread, 0, drain_later, &reader);
    CHECK("a blocked send goes on when one is read", send(u, "more", 4, 0) == 4);
    pthread_join(thread, &got);
    CHECK("which it was", got == (void *)1);
    n = -1;
    CHECK("SIOCINQ is the first one's length", ioctl(t, FIONREAD, &n) == 0 && n == 4);
    close(t);
    CHECK("a peer that is gone refuses once, and is forgotten", FAILS(send(s, "x", 1, 0), ECONNREFUSED) && FAILS(send(s, "x", 1, 0), ENOTCONN));
    close(s);
    close(u);

    struct stat st;
    len = path_address(&a, "/tmp/socket_datagram_name");
    unlink(a.sun_path);
    s = socket(AF_UNIX, SOCK_DGRAM, 0);
    fchmod(s, 0600);
    CHECK("the name has the socket's mode", bind(s, (void *)&a, len) == 0 && stat(a.sun_path, &st) == 0 && (st.st_mode & 0777) == 0600);
    t = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK("a path leads there", sendto(t, "hi", 2, 0, (void *)&a, len) == 2 && recv(s, buffer, 9, 0) == 2);
    if (geteuid() == 0 && fork() == 0) {
        if (setresuid(1000, 1000, 1000))
            _exit(2);
        _exit(!FAILS(sendto(t, "hi", 2, 0, (void *)&a, len), EACCES));
    }
    int status = 0;
    wait(&status);
    CHECK("only for those who may write", status == 0);
    unlink(a.sun_path);
    int f = open(a.sun_path, O_CREAT | O_RDWR, 0600);
    CHECK("a file is no socket", FAILS(sendto(t, "hi", 2, 0, (void *)&a, len), ECONNREFUSED));
    close(f);
    unlink(a.sun_path);
    close(s);
    close(t);

    int p[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, p);
    for (n = 0; send(p[0], "many", 4, MSG_DONTWAIT) == 4; n++)
        ;
    CHECK("a pair is bounded by its buffer alone", n > 100);
    CHECK("shutdown for writing", shutdown(p[0], SHUT_WR) == 0 && FAILS(send(p[0], "x", 1, MSG_NOSIGNAL), EPIPE));
    close(p[0]);
    close(p[1]);
}

static void packets(void)
{
    struct sockaddr_un a;
    socklen_t len = abstract_address(&a, "socket_datagram packets");
    int l = socket(AF_UNIX, SOCK_SEQPACKET, 0), c = socket(AF_UNIX, SOCK_SEQPACKET, 0), s;
    char b[64];
    CHECK("not connected", FAILS(send(c, "x", 1, 0), ENOTCONN) && FAILS(recv(c, b, 1, 0), ENOTCONN));
    CHECK("connected", bind(l, (void *)&a, len) == 0 && listen(l, 3) == 0 && connect(c, (void *)&a, len) == 0 && (s = accept(l, 0, 0)) >= 0);
    CHECK("borders are kept", send(c, "one", 3, 0) == 3 && send(c, "three", 5, 0) == 5 && recv(s, b, 64, 0) == 3 && read(s, b, 64) == 5);
    struct iovec in[2] = { { "gat", 3 }, { "her", 3 } }, out[2] = { { b, 2 }, { b + 10, 10 } };
    CHECK("iovecs", writev(c, in, 2) == 6 && readv(s, out, 2) == 6 && !memcmp(b, "ga", 2) && !memcmp(b + 10, "ther", 4));
    send(c, "last", 4, 0);
    close(c);
    CHECK("the end comes after the data", polled(s, POLLIN | POLLRDHUP) == (POLLIN | POLLRDHUP | POLLHUP) && recv(s, b, 64, 0) == 4 && recv(s, b, 64, 0) == 0 && recv(s, b, 64, MSG_DONTWAIT) == 0);
    CHECK("writing there", FAILS(send(s, "x", 1, 0), EPIPE));
    close(s);
    close(l);
}

static void several(void)
{
    int p[2];
    char data[8][16];
    struct iovec iov[8];
    struct mmsghdr m[8];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, p);
    memset(m, 0, sizeof m);
    for (int i = 0; i < 8; i++) {
        memset(data[i], 'a' + i, 16);
        iov[i].iov_base = data[i];
        iov[i].iov_len = i + 1;
        m[i].msg_hdr.msg_iov = &iov[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK("sendmmsg", sendmmsg(p[0], m, 5, 0) == 5 && m[4].msg_len == 5);
    for (int i = 0; i < 8; i++)
        iov[i].iov_len = 3;
    CHECK("recvmmsg takes what is there", recvmmsg(p[1], m, 8, MSG_WAITFORONE, 0) == 5 && m[0].msg_len == 1 && m[1].msg_len == 2 && m[4].msg_len == 3);
    CHECK("and tells what was cut off", (m[2].msg_hdr.msg_flags & MSG_TRUNC) == 0 && (m[3].msg_hdr.msg_flags & MSG_TRUNC) && data[4][0] == 'e');
    CHECK("nothing there", FAILS(recvmmsg(p[1], m, 8, MSG_DONTWAIT, 0), EAGAIN));
    struct timespec t = { 0, 1 };
    send(p[0], "x", 1, 0);
    send(p[0], "x", 1, 0);
    CHECK("its timeout ends after a message", recvmmsg(p[1], m, 8, 0, &t) == 1);
    close(p[0]);
    close(p[1]);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    mkdir("/tmp", 0777);
    datagrams();
    packets();
    several();
    return done("socket_datagram");
}
