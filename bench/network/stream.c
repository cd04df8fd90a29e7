/* One TCP stream for a given time: what was sent, by the receiver's count and clock. Prints MB/s.
 *   stream listen PORT send|receive SECONDS     serves one connection on the loopback
 *   stream connect ADDRESS PORT send|receive SECONDS */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    static char buffer[128 << 10];
    int listens = argc > 1 && !strcmp(argv[1], "listen"), s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (argc < 5)
        return 2;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[listens ? 2 : 3])) };
    inet_aton(listens ? "127.0.0.1" : argv[2], &a.sin_addr);
    int sends = !strcmp(argv[listens ? 3 : 4], "send");
    double seconds = atof(argv[listens ? 4 : 5]);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listens) {
        if (bind(s, (void *)&a, sizeof a) || listen(s, 1))
            return perror("listen"), 1;
        s = accept(s, NULL, NULL);
    } else {
        for (int i = 0; connect(s, (void *)&a, sizeof a); i++) {
            if (i > 100)
                return perror("connect"), 1;
            usleep(50000);
            close(s);
            s = socket(AF_INET, SOCK_STREAM, 0);
        }
    }
    double start = now(), total = 0;
    ssize_t n;
    if (sends) {
        while (now() - start < seconds && (n = write(s, buffer, sizeof buffer)) > 0)
            ;
        shutdown(s, SHUT_WR);
        while (read(s, buffer, sizeof buffer) > 0)
            ;
    } else {
        while ((n = read(s, buffer, sizeof buffer)) > 0)
            total += n;
        printf("%.0f\n", total / (now() - start) / 1e6);
    }
    return 0;
}
