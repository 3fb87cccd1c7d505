/* Asks for processes and threads; there are none to be had. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *run(void *nothing) { return nothing; }
int main(void) {
    pthread_t thread;
    int forked = fork(), threaded = pthread_create(&thread, NULL, run, NULL);
    execl("/bin/sh", "sh", NULL);
    printf("Content-Type: text/plain\n\n%d %d\n", forked, threaded != 0);
    return 0;
}
