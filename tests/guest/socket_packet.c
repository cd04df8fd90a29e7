/* Packet sockets, packet(7), over the loopback: frames in and out, with and without their link header, through a filter. Wants CAP_NET_RAW. */
#include "socket_check.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

static int lo;

static int open_packet(int type, int protocol)
{
    struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = lo };
    int s = socket(AF_PACKET, type, 0);
    if (s >= 0 && bind(s, (void *)&at, sizeof at))
        return -1;
    return s;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == EPERM) {
        printf("ok skipped: no CAP_NET_RAW\n");
        return done("socket_packet");
    }
    struct ifreq request = { .ifr_name = "lo" };
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    ioctl(u, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP;
    ioctl(u, SIOCSIFFLAGS, &request);
    lo = if_nametoindex("lo");
    CHECK("what does not fit", FAILS(socket(AF_PACKET, SOCK_STREAM, 0), ESOCKTNOSUPPORT));
    struct sockaddr_ll nowhere = { .sll_family = AF_PACKET, .sll_ifindex = 9999 };
    int raw = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP)), cooked = open_packet(SOCK_DGRAM, ETH_P_IP);
    CHECK("no such interface", FAILS(bind(raw, (void *)&nowhere, sizeof nowhere), ENODEV));
    CHECK("no such address", FAILS(bind(raw, (void *)&nowhere, 8), EINVAL));
    CHECK("bound to lo", raw >= 0 && cooked >= 0);
    close(raw);
    raw = open_packet(SOCK_RAW, ETH_P_IP);
    /* UDP to one port only: BPF sees the frame from its link header on. */
    struct sock_filter code[] = {
        { BPF_LD | BPF_B | BPF_ABS, 0, 0, 14 + 9 },
        { BPF_JMP | BPF_JEQ | BPF_K, 0, 3, IPPROTO_UDP },
        { BPF_LD | BPF_H | BPF_ABS, 0, 0, 14 + 20 + 2 },
        { BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 4242 },
        { BPF_RET | BPF_K, 0, 0, 1500 },
        { BPF_RET | BPF_K, 0, 0, 0 },
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    CHECK("a filter", setsockopt(raw, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
    for (int i = 0; i < 2; i++) {
        code[0].k = 9, code[2].k = 22;
        if (setsockopt(cooked, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program))
            break;
    }
    int on = 1, got = 0;
    socklen_t n = sizeof got;
    CHECK("PACKET_AUXDATA", setsockopt(cooked, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) == 0 && getsockopt(cooked, SOL_PACKET, PACKET_AUXDATA, &got, &n) == 0 && got == 1);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(4241), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int l = socket(AF_INET, SOCK_DGRAM, 0);
    sendto(u, "other", 5, 0, (void *)&to, sizeof to);
    to.sin_port = htons(4242);
    bind(l, (void *)&to, sizeof to);
    CHECK("a datagram to be seen", sendto(u, "seen", 4, 0, (void *)&to, sizeof to) == 4);
    unsigned char frame[200], control[200];
    struct sockaddr_ll from = { 0 };
    n = sizeof from;
    ssize_t len = recvfrom(raw, frame, sizeof frame, 0, (void *)&from, &n);
    CHECK("with its link header", len == 14 + 28 + 4 && frame[12] == 8 && frame[13] == 0 && frame[14] == 0x45 && memcmp(frame + 42, "seen", 4) == 0);
    unsigned char copy[46];
    memcpy(copy, frame, sizeof copy);
    CHECK("and where from", n >= 18 && from.sll_family == AF_PACKET && from.sll_protocol == htons(ETH_P_IP) && from.sll_ifindex == lo && from.sll_hatype == 772 && from.sll_halen == 6 && from.sll_pkttype == PACKET_HOST);
    struct iovec iov = { frame, sizeof frame };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    len = recvmsg(cooked, &m, 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    struct tpacket_auxdata *a = c ? (void *)CMSG_DATA(c) : NULL;
    CHECK("without it", len == 28 + 4 && frame[0] == 0x45 && memcmp(frame + 28, "seen", 4) == 0);
    CHECK("with auxiliary data", c && c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA && a->tp_len == 32 && a->tp_snaplen == 32 && a->tp_mac == 0 && a->tp_net == 0);
    CHECK("and nothing that the filter refused", FAILS(recv(raw, frame, sizeof frame, MSG_DONTWAIT), EAGAIN));
    struct tpacket_stats stats = { 0 };
    n = sizeof stats;
    CHECK("counted", getsockopt(raw, SOL_PACKET, PACKET_STATISTICS, &stats, &n) == 0 && stats.tp_packets == 1 && stats.tp_drops == 0);
    /* The same frame again, without the sum that the loopback need not have made. */
    copy[40] = copy[41] = 0;
    CHECK("a frame is sent", send(raw, copy, 46, 0) == 46);
    /* Linux takes a frame that comes to lo from outside of its IP for a martian; packet sockets see it all the same. */
    CHECK("and is seen", recv(raw, frame, sizeof frame, MSG_DONTWAIT) == 46 && memcmp(frame + 42, "seen", 4) == 0);
    CHECK("no peer", FAILS(getpeername(raw, (void *)&from, &n), EOPNOTSUPP) && FAILS(shutdown(raw, SHUT_RD), EOPNOTSUPP));
    return done("socket_packet");
}
