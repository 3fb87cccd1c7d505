/* Counts its visits in the key-value store, and shows the shop's products as the origin's API gives them: /visits */
#include "edge.h"

#define SHOWN 600

static char fetched[256 * 1024];

static void origin(edge_response *res) {
    edge_fetched found;
    long error = edge_fetch("/api/products", "Accept: application/json\n", fetched, sizeof fetched, &found);
    if (error < 0) {
        edge_printf(res, "<p>The origin could not be asked (error %ld).</p>\n", -error);
        return;
    }
    edge_printf(res, "<p>The origin answered %d, and %zu bytes:</p>\n<pre>", found.status, found.body_length);
    if (found.body_length > SHOWN) {
        size_t end = SHOWN;
        while (end > 0 && (found.body[end] & 0xc0) == 0x80) end--; /* not inside a character */
        fetched[found.body - fetched + (long)end] = 0;
    }
    edge_html(res, found.body);
    edge_print(res, "</pre>\n");
}

static int answer(edge_request *req) {
    long visits = edge_kv_get_number("visits", 0) + 1;
    long kept = edge_kv_put_number("visits", visits);
    edge_response res;

    edge_begin(&res, 200, "text/html; charset=utf-8");
    edge_set(&res, "Cache-Control", "no-store");
    edge_printf(&res,
                "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Visits</title>\n"
                "<style>body{font:1.1rem/1.6 system-ui,sans-serif;margin:10vh auto;max-width:40rem;padding:0 1rem;color:#1b2430;"
                "background:#f4f7fb}h1{color:#0b66c3}pre{white-space:pre-wrap;font-size:.8rem}"
                "@media(prefers-color-scheme:dark){body{color:#e4e9ee;background:#14191f}h1{color:#7db8f2}}</style>\n"
                "<h1>Visit %ld</h1>\n",
                visits);
    if (kept < 0) edge_printf(&res, "<p>It could not be kept (error %ld).</p>\n", -kept);
    origin(&res);
    edge_print(&res, "</html>\n");
    return edge_finish(&res, req);
}

int main(void) {
    static edge_request req;
    int more = edge_next(&req);
    while (more) more = answer(&req);
    return 1;
}
