/* Events of devices over netlink, as udev hears and passes them on. */
#define _GNU_SOURCE
#include "t.h"
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>

static char answer[8192];

static int listener(int groups) {
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), on = 1;
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_groups = groups};
    struct timeval patience = {10, 0};
    CHECK(s >= 0 && bind(s, (void *)&name, sizeof name) == 0);
    CHECK(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    CHECK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    return s;
}

static void devices_tell_of_themselves(void) {
    int s = listener(1);
    mkdir("sys", 0755);
    if (unshare(CLONE_NEWNS) < 0 || mount("sysfs", "sys", "sysfs", 0, NULL) < 0) t_skip("no sysfs that may be written");
    int fd = open("sys/devices/virtual/mem/null/uevent", O_WRONLY);
    if (fd < 0) t_skip("no sysfs that may be written");
    CHECK(write(fd, "change", 6) == 6);
    struct sockaddr_nl name;
    struct iovec part = {answer, sizeof answer - 1};
    char control[256];
    struct msghdr message = {&name, sizeof name, &part, 1, control, sizeof control, 0};
    do {
        message.msg_controllen = sizeof control;
        int n = recvmsg(s, &message, 0);
        CHECK(n > 0);
        answer[n] = 0;
        if (strcmp(answer, "change@/devices/virtual/mem/null")) continue;
        EQUAL(name.nl_pid, 0);
        EQUAL(name.nl_groups, 1);
        int found = 0;
        for (char *at = answer; at < answer + n; at += strlen(at) + 1)
            found |= !strcmp(at, "ACTION=change") | !strcmp(at, "SUBSYSTEM=mem") << 1 | !strcmp(at, "DEVNAME=null") << 2 |
                     !strncmp(at, "SEQNUM=", 7) << 3 | !strcmp(at, "DEVPATH=/devices/virtual/mem/null") << 4;
        EQUAL(found, 31);
    } while (strcmp(answer, "change@/devices/virtual/mem/null"));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    CHECK(c && c->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(c))->pid == 0);
}

static void processes_pass_them_on_through_filters(void) {
    int s = listener(0), t = listener(4), on = 1;
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_groups = 4};
    struct sock_filter only_a[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},
                                   {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'a'},
                                   {BPF_RET | BPF_K, 0, 0, 0xffffffff},
                                   {BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {4, only_a};
    CHECK(setsockopt(t, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
    if (sendto(s, "boo", 3, 0, (void *)&to, sizeof to) < 0 && errno == EPERM) t_skip("not allowed to send to a group");
    EQUAL(sendto(s, "ahoy", 4, 0, (void *)&to, sizeof to), 4);
    socklen_t len = sizeof to;
    EQUAL(recvfrom(t, answer, sizeof answer, 0, (void *)&to, &len), 4);
    CHECK(!memcmp(answer, "ahoy", 4) && to.nl_groups == 4 && to.nl_pid != 0);
    FAILS(recv(t, answer, 1, MSG_DONTWAIT), EAGAIN);
    CHECK(setsockopt(t, SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof on) == 0);
    FAILS(setsockopt(t, SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof on), ENOENT);
    only_a[3].code = BPF_LD;
    FAILS(setsockopt(t, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), EINVAL);
    /* To a port, and to one that nobody has. */
    to.nl_groups = 0;
    struct sockaddr_nl own;
    len = sizeof own;
    CHECK(getsockname(t, (void *)&own, &len) == 0);
    to.nl_pid = own.nl_pid;
    EQUAL(sendto(s, "you", 3, 0, (void *)&to, sizeof to), 3);
    EQUAL(recv(t, answer, sizeof answer, 0), 3);
    to.nl_pid = 0x7ffffff1;
    FAILS(sendto(s, "you", 3, 0, (void *)&to, sizeof to), ECONNREFUSED);
}

MAIN(CASE(devices_tell_of_themselves), CASE(processes_pass_them_on_through_filters))
