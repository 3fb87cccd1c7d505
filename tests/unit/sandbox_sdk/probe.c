/* Prints what edge.h makes of a request on standard input: the header is tried without a sandbox. */
#include "edge.h"

int main(int count, char **arguments) {
    static edge_request req;
    char text[16];
    long length;
    size_t size = fread(req.buffer, 1, EDGE_REQUEST_MAX, stdin);
    if (!edge_parse(&req, size)) {
        puts("refused");
        return 0;
    }
    printf("method=%s\npath=%s\nquery=%s\nbody=%zu:%s\n", req.method, req.path, req.query, req.body_length, req.body);
    for (int i = 1; i < count; i++) {
        printf("header %s=%s\n", arguments[i], edge_or_empty(edge_header(&req, arguments[i])));
        length = edge_param(&req, arguments[i], text, sizeof text);
        printf("param %s=%ld:%s\n", arguments[i], length, text);
    }
    printf("ms=%ld\n", edge_param_number(&req, "ms", 0, 100, -1));
    return 0;
}
