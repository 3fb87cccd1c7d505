/* Uses CPU time, to show what happens to a generator that uses too much of it.
 *
 *   /spinner?ms=5      works for 5 ms, and answers
 *   /clock?ms=5000     is stopped at its limit, and the edge asks the origin, which has a page of that name
 *   /spinner/moody     answers, and from then on works far too long: visitors get the stale copy of its first answer
 */
#include <time.h>

#include "edge.h"

#define LONGEST_MS 60000L

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static unsigned long spin(long ms) {
    unsigned long hash = 1469598103934665603UL;
    long end = now_ms() + ms;
    do {
        for (unsigned long i = 0; i < 20000; i++) hash = (hash ^ i) * 1099511628211UL;
    } while (now_ms() < end);
    return hash;
}

static int answer(edge_request *req) {
    int moody = strcmp(req->path, "/spinner/moody") == 0;
    long times = moody ? edge_kv_get_number("moody", 0) : 0;
    long ms = edge_param_number(req, "ms", 0, LONGEST_MS, 1);
    unsigned long hash;
    edge_response res;

    if (moody) {
        edge_kv_put_number("moody", times + 1);
        if (times > 0) ms = LONGEST_MS;
    }
    hash = spin(ms);
    edge_begin(&res, 200, "text/html; charset=utf-8");
    edge_set(&res, "Cache-Control", moody ? "max-age=1, stale-if-error=3600" : "max-age=5");
    edge_printf(&res,
                "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Spinner</title>\n"
                "<style>body{font:1.2rem/1.6 system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem;color:#1b2430;"
                "background:#f4f7fb}h1{color:#0b66c3}"
                "@media(prefers-color-scheme:dark){body{color:#e4e9ee;background:#14191f}h1{color:#7db8f2}}</style>\n"
                "<h1>Spun for %ld ms</h1>\n<p>and found %lx.</p>\n",
                ms, hash);
    if (moody) edge_print(&res, "<p>Reload after a second: the next time takes too long, and this copy is all there is.</p>\n");
    edge_print(&res, "</html>\n");
    return edge_finish(&res, req);
}

int main(void) {
    static edge_request req;
    int more = edge_next(&req);
    while (more) more = answer(&req);
    return 1;
}
