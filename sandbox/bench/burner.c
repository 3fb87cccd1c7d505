/* Uses CPU time for as long as it is given any. */
#include "edge.h"

static char request[4096];

int main(void) {
    volatile unsigned long sink = 0;
    while (edge_call(EDGE_NEXT_REQUEST, request, sizeof request, NULL, 0) >= 0)
        for (;;) sink++;
    return 1;
}
