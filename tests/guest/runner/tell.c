/* The first process of a machine that a boot test looks at: tells its arguments and its environment, and powers off. With "status=N" in its
 * environment it exits with that instead, with "spin=1" it never ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(int argc, char **argv, char **envp) {
    for (int i = 0; i < argc; i++) printf("argument %s\n", argv[i]);
    for (; *envp; envp++) printf("environment %s\n", *envp);
    fflush(stdout);
    if (getenv("spin"))
        for (;;)
            if (fork() == 0)
                for (;;) pause();
            else
                sleep(1);
    if (getenv("status")) return atoi(getenv("status"));
    reboot(RB_POWER_OFF);
    return 1;
}
