/* The page of page.c as a CGI program (RFC 3875): what peers that start a process for each request run. */
#include <stdio.h>
#include <stdlib.h>

static char page[16384];

int main(void) {
    const char *query = getenv("QUERY_STRING");
    char *at = page;
    at += sprintf(at, "Content-Type: text/html\n\n<h1>Request of %ld bytes</h1>\n", query ? atol(query) : 0L);
    for (int i = 0; i < 20; i++) at += sprintf(at, "<li>item %d price %d.%02d</li>\n", i, i * 3, i * 7 % 100);
    return fwrite(page, 1, (size_t)(at - page), stdout) == (size_t)(at - page) ? 0 : 1;
}
