/* Changes everything that it can in a request, and answers with what it found. */
#include "edge.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static int requests, boots;
static char request[8192], page[4096];
static char *kept;
static double sum = 0.5;

int main(void) {
    boots++;
    kept = malloc(100000);
    strcpy(kept, "initial");
    for (;;) {
        int length = (int)edge_call(EDGE_NEXT_REQUEST, request, sizeof request - 1, NULL, 0);
        int fd = open("data", O_RDONLY), found = 0;
        char byte = '?';
        void *area = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *fresh = malloc(200000);
        if (length < 0) return 1;
        for (int i = 0; i < 200000; i++) found += fresh[i] == 'S';
        for (int i = 0; i < 1 << 20; i++) found += ((char *)area)[i] == 'S';
        if (read(fd, &byte, 1) != 1) byte = '!';
        length = snprintf(page, sizeof page, "Content-Type: text/plain\n\n%d %d %s %.2f fd%d %c %d %p\n", boots, ++requests, kept, sum *= 2, fd, byte, found, area);
        strcpy(kept, "SECRET");
        memset(fresh, 'S', 200000);
        memset(area, 'S', 1 << 20);
        signal(SIGUSR1, SIG_IGN);
        edge_call(EDGE_RESPOND, page, (size_t)length, NULL, 0);
    }
}
