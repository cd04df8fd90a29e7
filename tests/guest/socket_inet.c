/* UDP and TCP over the loopback interface, IPv4 and IPv6; the interface's ioctls. ip(7), udp(7), tcp(7), netdevice(7). */
#include "socket_check.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

/* A machine that has just begun has its loopback interface down. */
static void loopback_up(void)
{
    struct ifreq r = { .ifr_name = "lo" };
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(s, SIOCGIFFLAGS, &r) == 0 && !(r.ifr_flags & IFF_UP)) {
        r.ifr_flags |= IFF_UP;
        ioctl(s, SIOCSIFFLAGS, &r);
    }
    CHECK("lo is up", ioctl(s, SIOCGIFFLAGS, &r) == 0 && (r.ifr_flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING)) == (IFF_UP | IFF_LOOPBACK | IFF_RUNNING));
    CHECK("its address", ioctl(s, SIOCGIFADDR, &r) == 0 && ((struct sockaddr_in *)&r.ifr_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK("its netmask", ioctl(s, SIOCGIFNETMASK, &r) == 0 && ((struct sockaddr_in *)&r.ifr_addr)->sin_addr.s_addr == htonl(0xff000000));
    CHECK("its MTU", ioctl(s, SIOCGIFMTU, &r) == 0 && r.ifr_mtu == 65536);
    CHECK("its kind", ioctl(s, SIOCGIFHWADDR, &r) == 0 && r.ifr_hwaddr.sa_family == 772);
    CHECK("its number", if_nametoindex("lo") == 1);
    char name[IF_NAMESIZE];
    CHECK("and back", if_indextoname(1, name) && !strcmp(name, "lo"));
    strcpy(r.ifr_name, "nothing0");
    CHECK("no such interface", FAILS(ioctl(s, SIOCGIFFLAGS, &r), ENODEV));
    int u = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(r.ifr_name, "lo");
    CHECK("any socket may ask", ioctl(u, SIOCGIFINDEX, &r) == 0 && r.ifr_ifindex == 1);
    CHECK("but not everything", FAILS(ioctl(u, 0x12345, &r), ENOTTY));
    struct ifreq all[32];
    struct ifconf c = { .ifc_len = sizeof all, .ifc_req = all };
    CHECK("SIOCGIFCONF", ioctl(s, SIOCGIFCONF, &c) == 0 && c.ifc_len >= (int)sizeof all[0] && !strcmp(all[0].ifr_name, "lo"));
    close(s);
    close(u);
}

static socklen_t loopback(int family, struct sockaddr_storage *a, int port)
{
    memset(a, 0, sizeof *a);
    a->ss_family = family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (void *)a;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        in->sin_port = htons(port);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (void *)a;
    in6->sin6_addr = in6addr_loopback;
    in6->sin6_port = htons(port);
    return sizeof *in6;
}

static int port_of(int s)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(s, (void *)&a, &n))
        return -1;
    return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
}

static void udp(int family)
{
    struct sockaddr_storage a, from;
    socklen_t len = loopback(family, &a, 0), n;
    char b[2000], big[60000];
    int s = socket(family, SOCK_DGRAM, 0), c = socket(family, SOCK_DGRAM, 0);
    CHECK("udp: bind", bind(s, (void *)&a, len) == 0 && port_of(s) > 0);
    CHECK("udp: bind again", FAILS(bind(s, (void *)&a, len), EINVAL));
    loopback(family, &a, port_of(s));
    CHECK("udp: taken", FAILS(bind(c, (void *)&a, len), EADDRINUSE));
    CHECK("udp: sendto", sendto(c, "hello", 5, 0, (void *)&a, len) == 5);
    n = sizeof from;
    CHECK("udp: recvfrom", polled(s, POLLIN) == POLLIN && recvfrom(s, b, sizeof b, 0, (void *)&from, &n) == 5 && n == len && from.ss_family == family);
    CHECK("udp: answer", sendto(s, "answer", 6, 0, (void *)&from, n) == 6 && recv(c, b, sizeof b, 0) == 6);
    CHECK("udp: connect", connect(c, (void *)&a, len) == 0 && send(c, "conn", 4, 0) == 4 && recv(s, b, 2, MSG_TRUNC) == 4);
    CHECK("udp: nothing there", FAILS(recv(s, b, 1, MSG_DONTWAIT), EAGAIN));
    memset(big, 7, sizeof big);
    CHECK("udp: large", send(c, big, sizeof big, 0) == sizeof big && recv(s, big, sizeof big, 0) == sizeof big);
    CHECK("udp: too large", FAILS(send(c, big, 70000, 0), EMSGSIZE));
    struct timeval t = { 0, 20000 };
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    CHECK("udp: timeout", FAILS(recv(s, b, 1, 0), EAGAIN));
    close(s);
    CHECK("udp: nobody there is told", send(c, "x", 1, 0) == 1 && FAILS(recv(c, b, 1, 0), ECONNREFUSED));
    close(c);
}

struct server { int fd; long got; int good; };

static void *serve(void *arg)
{
    struct server *s = arg;
    static char b[100000];
    int c = accept(s->fd, 0, 0);
    ssize_t n;
    s->good = 1;
    while ((n = read(c, b, sizeof b)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            s->good &= b[i] == (char)((s->got + i) % 251);
        s->got += n;
    }
    write(c, "bye", 3);
    close(c);
    return 0;
}

static void tcp(int family)
{
    struct sockaddr_storage a, peer;
    socklen_t len = loopback(family, &a, 0), n;
    char b[64];
    int l = socket(family, SOCK_STREAM, 0), c = socket(family, SOCK_STREAM, 0), one = 1;
    CHECK("tcp: type", option(l, SO_TYPE) == SOCK_STREAM && option(l, SO_PROTOCOL) == IPPROTO_TCP && option(l, SO_DOMAIN) == family);
    CHECK("tcp: not connected", FAILS(send(c, "x", 1, MSG_NOSIGNAL), EPIPE) && FAILS(recv(c, b, 1, 0), ENOTCONN));
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CHECK("tcp: listen", bind(l, (void *)&a, len) == 0 && listen(l, 5) == 0 && option(l, SO_ACCEPTCONN) == 1);
    int port = port_of(l);
    loopback(family, &a, port);
    fcntl(l, F_SETFL, O_NONBLOCK);
    CHECK("tcp: nobody yet", FAILS(accept(l, 0, 0), EAGAIN) && polled(l, POLLIN) == 0);
    fcntl(l, F_SETFL, 0);
    CHECK("tcp: connect", connect(c, (void *)&a, len) == 0);
    CHECK("tcp: again", FAILS(connect(c, (void *)&a, len), EISCONN));
    n = sizeof peer;
    int s = accept(l, (void *)&peer, &n);
    CHECK("tcp: accept", s >= 0 && n == len && peer.ss_family == family);
    n = sizeof peer;
    CHECK("tcp: peer", getpeername(c, (void *)&peer, &n) == 0 && n == len && !memcmp(&peer, &a, len));
    CHECK("tcp: there", write(c, "hello", 5) == 5 && read(s, b, 64) == 5);
    CHECK("tcp: and back", write(s, "answer", 6) == 6 && recv(c, b, 3, MSG_PEEK) == 3 && read(c, b, 64) == 6);
    CHECK("tcp: nothing there", FAILS(recv(c, b, 1, MSG_DONTWAIT), EAGAIN) && polled(c, POLLIN | POLLOUT) == POLLOUT);
    CHECK("tcp: TCP_NODELAY", setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    struct tcp_info info;
    n = sizeof info;
    CHECK("tcp: TCP_INFO", getsockopt(c, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 && info.tcpi_state == TCP_ESTABLISHED);
    CHECK("tcp: half a close", shutdown(c, SHUT_WR) == 0 && read(s, b, 1) == 0 && (polled(s, POLLIN | POLLRDHUP) & POLLRDHUP));
    CHECK("tcp: sending is over", FAILS(send(c, "x", 1, MSG_NOSIGNAL), EPIPE));
    CHECK("tcp: the other half", write(s, "last", 4) == 4 && read(c, b, 64) == 4);
    close(s);
    CHECK("tcp: the end", read(c, b, 1) == 0);
    close(c);

    struct server server = { l, 0, 0 };
    pthread_t thread;
    pthread_create(&thread, 0, serve, &server);
    c = socket(family, SOCK_STREAM, 0);
    CHECK("tcp: bulk connect", connect(c, (void *)&a, len) == 0);
    static char block[50000];
    long total = 0;
    for (int i = 0; i < 100; i++) {
        for (size_t k = 0; k < sizeof block; k++)
            block[k] = (total + k) % 251;
        total += write(c, block, sizeof block);
    }
    shutdown(c, SHUT_WR);
    CHECK("tcp: farewell", read(c, b, 64) == 3 && read(c, b, 64) == 0);
    pthread_join(thread, 0);
    CHECK("tcp: five million bytes in order", total == 5000000 && server.got == total && server.good);
    close(c);

    c = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int r = connect(c, (void *)&a, len);
    int why = errno;
    CHECK("tcp: nonblocking connect", r == 0 || (r == -1 && why == EINPROGRESS));
    struct pollfd p = { c, POLLOUT, 0 };
    CHECK("tcp: completes", poll(&p, 1, 2000) == 1 && p.revents == POLLOUT && option(c, SO_ERROR) == 0);
    s = accept(l, 0, 0);
    struct linger linger = { 1, 0 };
    setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(s);
    CHECK("tcp: a reset", poll(&p, 1, 2000) == 1 && (p.revents & POLLERR) && FAILS(recv(c, b, 1, 0), ECONNRESET));
    close(c);
    close(l);
    c = socket(family, SOCK_STREAM, 0);
    CHECK("tcp: nobody listens", FAILS(connect(c, (void *)&a, len), ECONNREFUSED));
    close(c);
}

static void mixed(void)
{
    struct sockaddr_in6 any = { .sin6_family = AF_INET6 }, from;
    int l = socket(AF_INET6, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_storage a;
    socklen_t n = sizeof from;
    bind(l, (void *)&any, sizeof any);
    listen(l, 1);
    socklen_t len = loopback(AF_INET, &a, port_of(l));
    CHECK("IPv4 reaches an IPv6 socket", connect(c, (void *)&a, len) == 0);
    int s = accept(l, (void *)&from, &n);
    CHECK("under a mapped address", s >= 0 && n == sizeof from && IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
    close(s);
    close(c);
    close(l);
    if (geteuid() == 0 && fork() == 0) {
        if (setresuid(1000, 1000, 1000))
            _exit(2);
        s = socket(AF_INET, SOCK_STREAM, 0);
        len = loopback(AF_INET, &a, 80);
        _exit(!(FAILS(bind(s, (void *)&a, len), EACCES) && FAILS(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM)));
    }
    int status = 0;
    wait(&status);
    CHECK("ports below 1024 and raw sockets are root's", status == 0);
    CHECK("what does not fit", FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT) && FAILS(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT) && FAILS(socket(63, SOCK_STREAM, 0), EAFNOSUPPORT));
    int p[2];
    CHECK("no pairs", FAILS(socketpair(AF_INET, SOCK_STREAM, 0, p), EOPNOTSUPP));
}

/* A raw socket of ICMP takes only the types that its filter lets through: raw(7). */
static void icmp_filter(void)
{
    int s = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), other = socket(AF_INET, SOCK_RAW, IPPROTO_UDP), udp = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0)
        return;
    unsigned filter = ~(1u << 0), got = 0;
    socklen_t n = sizeof got;
    CHECK("ICMP_FILTER", setsockopt(s, SOL_RAW, 1, &filter, sizeof filter) == 0 && getsockopt(s, SOL_RAW, 1, &got, &n) == 0 && got == filter);
    CHECK("is ICMP's", FAILS(setsockopt(other, SOL_RAW, 1, &filter, sizeof filter), EOPNOTSUPP) && FAILS(setsockopt(udp, SOL_RAW, 1, &filter, sizeof filter), ENOPROTOOPT));
    struct sockaddr_storage to;
    socklen_t len = loopback(AF_INET, &to, 0);
    unsigned char echo[8] = { 8, 0, 0xf7, 0xff - 7, 0, 0, 0, 7 }, packet[128];
    CHECK("an echo request", sendto(s, echo, sizeof echo, 0, (void *)&to, len) == sizeof echo);
    CHECK("of which only the reply is seen", recv(s, packet, sizeof packet, 0) == 28 && packet[20] == 0 && packet[27] == 7);
    CHECK("and nothing else", FAILS(recv(s, packet, sizeof packet, MSG_DONTWAIT), EAGAIN));
    close(s);
    close(other);
    close(udp);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    loopback_up();
    udp(AF_INET);
    tcp(AF_INET);
    int s = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_storage a;
    socklen_t len = loopback(AF_INET6, &a, 0);
    if (s >= 0 && bind(s, (void *)&a, len) == 0) {
        udp(AF_INET6);
        tcp(AF_INET6);
        mixed();
    }
    icmp_filter();
    return done("socket_inet");
}
