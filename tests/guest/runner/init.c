/* The first process of a machine that runs guest tests: runs each program of /tests/list in a directory of its own and says what came of it.
 *
 * A line of the list is "NAME SECONDS". What is said about a program is "@begin NAME" and "@end NAME HOW MILLISECONDS", HOW being "exit N",
 * "signal N" or "timeout 0"; between them stands what it wrote. The machine powers off at the end. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void run(const char *name, long limit_s) {
    char directory[128], path[128];
    snprintf(directory, sizeof directory, "/tmp/%s", name);
    snprintf(path, sizeof path, "/tests/%s", name);
    mkdir(directory, 0777);
    printf("@begin %s\n", name);
    fflush(stdout);
    long start = now_ms();
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        if (chdir(directory) == 0) execl(path, name, (char *)0);
        _exit(126);
    }
    setpgid(child, child);
    int status = 0;
    const char *how = "timeout";
    int number = 0;
    while (now_ms() - start < limit_s * 1000) {
        pid_t found = waitpid(child, &status, WNOHANG);
        if (found == child) {
            how = WIFEXITED(status) ? "exit" : "signal";
            number = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
            break;
        }
        usleep(2000);
    }
    long took = now_ms() - start;
    kill(-child, SIGKILL);
    if (!strcmp(how, "timeout")) waitpid(child, &status, 0);
    while (waitpid(-1, &status, WNOHANG) > 0) {
    }
    printf("@end %s %s %d %ld\n", name, how, number, took);
    fflush(stdout);
}

int main(void) {
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/tmp", 01777);
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("tmpfs", "/tmp", "tmpfs", 0, "");
    mount("devpts", "/dev/pts", "devpts", 0, "");
    mount("tmpfs", "/dev/shm", "tmpfs", 0, "");
    chmod("/tmp", 01777);
    FILE *list = fopen("/tests/list", "r");
    char name[64];
    long limit_s;
    while (list && fscanf(list, "%63s %ld", name, &limit_s) == 2) run(name, limit_s);
    printf("@done\n");
    fflush(stdout);
    reboot(RB_POWER_OFF);
    return 0;
}
