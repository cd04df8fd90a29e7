/* rtnetlink, as resolvers and ip(8) use it. netlink(7), rtnetlink(7). */
#include "socket_check.h"
#include <ifaddrs.h>
#include <linux/filter.h>
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

/* Processes tell each other by groups; the kernel tells of devices by the first group of uevents. */
static void groups(void)
{
    struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = 4 }, from;
    socklen_t len = sizeof from;
    char text[4096];
    int s = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK), t = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK), one = 1, three = 3;
    struct sockaddr_nl any = { .nl_family = AF_NETLINK };
    CHECK("a socket for users", s >= 0 && t >= 0 && bind(s, (void *)&any, sizeof any) == 0);
    CHECK("is in a group", setsockopt(s, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &three, sizeof three) == 0);
    CHECK("wants credentials", setsockopt(s, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
    CHECK("and hears the group", sendto(t, "word", 4, 0, (void *)&a, sizeof a) == 4 || errno == ECONNREFUSED);
    union { struct cmsghdr h; char room[128]; } control;
    struct iovec v = { text, sizeof text };
    struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    CHECK("once", recvmsg(s, &m, MSG_DONTWAIT) == 4 && !memcmp(text, "word", 4) && FAILS(recv(s, text, 4, MSG_DONTWAIT), EAGAIN));
    struct ucred *who = (void *)CMSG_DATA(&control.h);
    CHECK("from whom", m.msg_controllen > 0 && control.h.cmsg_type == SCM_CREDENTIALS && who->pid == getpid());
    CHECK("by its port", from.nl_family == AF_NETLINK && from.nl_pid != 0 && from.nl_groups == 4);
    /* return 0: nothing passes */
    struct sock_filter none[] = { { 6, 0, 0, 0 } };
    struct sock_fprog filter = { 1, none };
    CHECK("a filter", setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
    sendto(t, "word", 4, 0, (void *)&a, sizeof a);
    CHECK("keeps it out", FAILS(recv(s, text, sizeof text, MSG_DONTWAIT), EAGAIN));
    CHECK("until it is gone", setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one) == 0);
    none[0].code = 0xffff;
    CHECK("no filter", FAILS(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter), EINVAL));
    CHECK("outside of the group", setsockopt(s, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &three, sizeof three) == 0);
    sendto(t, "word", 4, 0, (void *)&a, sizeof a);
    CHECK("is silence", FAILS(recv(s, text, sizeof text, MSG_DONTWAIT), EAGAIN));
    close(t);
    close(s);
    int u = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT);
    a.nl_groups = 1;
    CHECK("a socket for uevents", u >= 0 && bind(u, (void *)&a, sizeof a) == 0);
    int f = open("/sys/class/mem/null/uevent", O_WRONLY);
    if (f < 0 || write(f, "change", 6) != 6)
        return;
    /* Others may make events too. */
    static const char start[] = "change@/devices/virtual/mem/null";
    int n;
    do
        n = recvfrom(u, text, sizeof text, 0, (void *)&from, &len);
    while (n > 0 && strcmp(text, start));
    CHECK("hears of a device", n > 0 && from.nl_pid == 0 && from.nl_groups == 1);
    int lines = 0;
    for (char *p = text; p < text + n; p += strlen(p) + 1)
        lines += !strcmp(p, "ACTION=change") || !strcmp(p, "SUBSYSTEM=mem") || !strcmp(p, "MAJOR=1") || !strcmp(p, "MINOR=3") || !strcmp(p, "DEVNAME=null") || !strcmp(p, "SYNTH_UUID=0") || !strncmp(p, "SEQNUM=", 7);
    CHECK("with all that there is to say", lines == 7);
    close(f);
    close(u);
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
    groups();
    return done("socket_netlink");
}
