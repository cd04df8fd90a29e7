/* rtnetlink, as resolvers and ip(8) use it. netlink(7), rtnetlink(7). */
#include "socket_check.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

static struct { struct nlmsghdr h; struct ifinfomsg i; } request;
static char answer[32768];

/* Asks, and counts answers of a type until the end. */
static int dump(int s, int type, int wanted)
{
    memset(&request, 0, sizeof request);
    request.h.nlmsg_len = sizeof request;
    request.h.nlmsg_type = type;
    request.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.h.nlmsg_seq = 77;
    if (send(s, &request, sizeof request, 0) != sizeof request)
        return -1;
    int count = 0;
    for (;;) {
        int n = recv(s, answer, sizeof answer, 0);
        if (n <= 0)
            return -1;
        for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_seq != 77 || !(h->nlmsg_flags & NLM_F_MULTI))
                return -1;
            if (h->nlmsg_type == NLMSG_DONE)
                return count;
            if (h->nlmsg_type == NLMSG_ERROR)
                return -1;
            count += h->nlmsg_type == wanted;
        }
    }
}

int main(void)
{
    struct sockaddr_nl a = { .nl_family = AF_NETLINK };
    socklen_t len = sizeof a;
    struct ifreq up = { .ifr_name = "lo" };
    int u = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (ioctl(u, SIOCGIFFLAGS, &up) == 0 && !(up.ifr_flags & IFF_UP)) {
        up.ifr_flags |= IFF_UP;
        ioctl(u, SIOCSIFFLAGS, &up);
    }
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    CHECK("socket", s >= 0);
    CHECK("bind chooses the process's number", bind(s, (void *)&a, sizeof a) == 0 && getsockname(s, (void *)&a, &len) == 0 && len == sizeof a && a.nl_pid == (unsigned)getpid());
    int t = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    CHECK("once", FAILS(bind(t, (void *)&a, sizeof a), EADDRINUSE));
    a.nl_pid = 0;
    CHECK("or another", bind(t, (void *)&a, sizeof a) == 0 && getsockname(t, (void *)&a, &len) == 0 && a.nl_pid != 0 && a.nl_pid != (unsigned)getpid());
    close(t);
    CHECK("links", dump(s, RTM_GETLINK, RTM_NEWLINK) >= 1);
    CHECK("addresses", dump(s, RTM_GETADDR, RTM_NEWADDR) >= 1);
    CHECK("routes", dump(s, RTM_GETROUTE, RTM_NEWROUTE) >= 1);
    CHECK("neighbours", dump(s, RTM_GETNEIGH, RTM_NEWNEIGH) >= 0);

    request.h.nlmsg_flags = NLM_F_REQUEST;
    request.h.nlmsg_type = RTM_GETLINK;
    request.i.ifi_index = 1;
    send(s, &request, sizeof request, 0);
    int n = recv(s, answer, sizeof answer, MSG_PEEK | MSG_TRUNC), m = recv(s, answer, sizeof answer, 0);
    struct nlmsghdr *h = (void *)answer;
    struct ifinfomsg *i = NLMSG_DATA(h);
    CHECK("one link", n == m && h->nlmsg_type == RTM_NEWLINK && i->ifi_index == 1 && (i->ifi_flags & IFF_LOOPBACK));
    request.i.ifi_index = 9999;
    send(s, &request, sizeof request, 0);
    recv(s, answer, sizeof answer, 0);
    struct nlmsgerr *e = NLMSG_DATA(h);
    CHECK("no such link", h->nlmsg_type == NLMSG_ERROR && e->error == -ENODEV && e->msg.nlmsg_seq == 77);
    request.h.nlmsg_type = 9999;
    send(s, &request, sizeof request, 0);
    recv(s, answer, sizeof answer, 0);
    CHECK("no such request", h->nlmsg_type == NLMSG_ERROR && e->error == -EOPNOTSUPP);
    request.h.nlmsg_type = NLMSG_NOOP;
    request.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    send(s, &request, sizeof request, 0);
    recv(s, answer, sizeof answer, 0);
    CHECK("an acknowledgement", h->nlmsg_type == NLMSG_ERROR && e->error == 0);
    close(s);

    struct ifaddrs *list, *p;
    int lo = 0;
    CHECK("getifaddrs", getifaddrs(&list) == 0);
    for (p = list; p; p = p->ifa_next)
        lo |= !strcmp(p->ifa_name, "lo") && p->ifa_addr && p->ifa_addr->sa_family == AF_INET && ((struct sockaddr_in *)p->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
    CHECK("knows the loopback address", lo);
    struct if_nameindex *names = if_nameindex();
    CHECK("if_nameindex", names && names[0].if_index == 1 && !strcmp(names[0].if_name, "lo"));
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM }, *found;
    CHECK("getaddrinfo of a number", getaddrinfo("127.0.0.1", "80", &hints, &found) == 0 && found->ai_family == AF_INET);
    CHECK("families that are not there", FAILS(socket(AF_NETLINK, SOCK_RAW, 30), EPROTONOSUPPORT) && FAILS(socket(AF_NETLINK, SOCK_STREAM, 0), ESOCKTNOSUPPORT));
    return done("socket_netlink");
}
