/* Allocates and touches memory without end, and gives up when there is no more. */
#include <stdlib.h>
#include <string.h>
static char *volatile last;
int main(void) {
    for (;;) {
        last = malloc(100000);
        if (!last) abort();
        for (int i = 0; i < 100000; i += 4096) last[i] = 1;
    }
}
