/* What `python -m sandbox bench` runs: a page of about 600 bytes, made with stdio as a generator would. */
#include "edge.h"

static char request[4096], page[16384];

int main(void) {
    long length = edge_call(EDGE_NEXT_REQUEST, request, sizeof request - 1, NULL, 0);
    for (;;) {
        char *at = page;
        if (length < 0) return 1;
        request[length] = 0;
        at += sprintf(at, "Content-Type: text/html\n\n<h1>Request of %ld bytes</h1>\n", length);
        for (int i = 0; i < 20; i++) at += sprintf(at, "<li>item %d price %d.%02d</li>\n", i, i * 3, i * 7 % 100);
        length = edge_call(EDGE_FINISH, page, (size_t)(at - page), request, sizeof request - 1);
    }
}
