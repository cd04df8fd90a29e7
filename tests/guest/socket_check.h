/* What the socket tests share: each claim prints one line, and a program ends with 0 if all held. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;

#define CHECK(what, claim)                                                          \
    do {                                                                            \
        errno = 0;                                                                  \
        if (claim) {                                                                \
            printf("ok %s\n", what);                                                \
        } else {                                                                    \
            printf("not ok %s (line %d, errno %d)\n", what, __LINE__, errno);       \
            failures++;                                                             \
        }                                                                           \
    } while (0)

#define FAILS(call, number) ((call) == -1 && errno == (number))

static inline int done(const char *name)
{
    printf("%s: %s\n", name, failures ? "FAILED" : "passed");
    fflush(stdout);
    return failures != 0;
}

static inline short polled(int fd, short events)
{
    struct pollfd p = { fd, events, 0 };
    return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static inline socklen_t path_address(struct sockaddr_un *a, const char *path)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path);
    return offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
}

static inline socklen_t abstract_address(struct sockaddr_un *a, const char *name)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path + 1, name);
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

static inline int option(int fd, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) ? -1 : value;
}

static inline int set_option(int fd, int name, int value)
{
    return setsockopt(fd, SOL_SOCKET, name, &value, sizeof value);
}

/* Sends data with descriptors. */
static inline ssize_t send_fds(int s, const void *data, size_t len, const int *fds, int n)
{
    char control[CMSG_SPACE(sizeof(int) * 300)] = { 0 };
    struct iovec iov = { (void *)data, len };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    return sendmsg(s, &m, MSG_NOSIGNAL);
}

/* Receives data and descriptors; *n is how many there is room for, and then how many came. */
static inline ssize_t receive_fds(int s, void *data, size_t len, int *fds, int *n, int flags, int *msg_flags)
{
    char control[CMSG_SPACE(sizeof(int) * 300)];
    struct iovec iov = { data, len };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = *n ? CMSG_LEN(sizeof(int) * *n) : 0 };
    ssize_t got = recvmsg(s, &m, flags);
    *n = 0;
    if (got < 0)
        return got;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), sizeof(int) * *n);
        }
    if (msg_flags)
        *msg_flags = m.msg_flags;
    return got;
}
