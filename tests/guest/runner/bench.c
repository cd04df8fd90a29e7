/* The first process of a machine that is measured: runs the program that the kernel's command line names on tmpfs, with the arguments behind
 * it. "idle": waits. */
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    mkdir("/proc", 0755);
    mkdir("/tmp", 0777);
    mount("proc", "/proc", "proc", 0, "");
    mount("tmpfs", "/tmp", "tmpfs", 0, "");
    printf("@begin\n");
    fflush(stdout);
    while (argc > 1 && strcmp(argv[1], "idle") == 0) pause();
    if (argc > 1) {
        pid_t child = fork();
        if (child == 0) {
            if (chdir("/tmp") == 0) execv(argv[1], argv + 1);
            _exit(126);
        }
        waitpid(child, NULL, 0);
    }
    reboot(RB_POWER_OFF);
    return 1;
}
