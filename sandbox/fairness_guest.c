/* What the fairness measurement runs: /spin never ends, anything else is answered at once. */
#include "edge.h"

static edge_request request;
static volatile long sink;

int main(void) {
    while (edge_next(&request)) {
        if (strcmp(request.path, "/spin") == 0) for (;;) sink++;
        edge_respond(200, "text/plain", "ok");
    }
    return 1;
}
