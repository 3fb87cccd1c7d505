/* A plain CGI program (RFC 3875), as any web server's cgi-bin could run it: shows its request and its machine as a page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;

static void print_html(const char *text) {
    for (; *text != 0; text++) {
        switch (*text) {
            case '&': fputs("&amp;", stdout); break;
            case '<': fputs("&lt;", stdout); break;
            case '>': fputs("&gt;", stdout); break;
            case '"': fputs("&quot;", stdout); break;
            default: putchar(*text);
        }
    }
}

static void row(const char *name, const char *value) {
    fputs("<tr><th>", stdout);
    print_html(name);
    fputs("<td>", stdout);
    print_html(value);
    putchar('\n');
}

static void environment(void) {
    for (char **at = environ; *at != NULL; at++) {
        char name[64];
        size_t length = strcspn(*at, "=");
        snprintf(name, sizeof name, "%.*s", (int)length, *at);
        row(name, (*at)[length] == '=' ? *at + length + 1 : "");
    }
}

static void machine(void) {
    char text[64];
    struct utsname name;
    if (uname(&name) == 0) {
        row("uname", name.sysname);
        row("machine", name.machine);
    }
    snprintf(text, sizeof text, "pid %d, page size %ld", (int)getpid(), sysconf(_SC_PAGESIZE));
    row("process", text);
}

int main(void) {
    fputs("Content-Type: text/html; charset=utf-8\r\nCache-Control: max-age=10\r\nX-Content-Type-Options: nosniff\r\n\r\n"
          "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"
          "<title>What a guest sees</title>\n"
          "<style>body{font:1rem/1.5 system-ui,sans-serif;margin:3rem auto;max-width:52rem;padding:0 1rem;color:#1b2430;"
          "background:#f4f7fb}table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;padding-right:2rem;"
          "white-space:nowrap;vertical-align:top}td{font-family:ui-monospace,monospace;overflow-wrap:anywhere}"
          "tr{border-top:1px solid #d5dfea}@media(max-width:40rem){th,td{display:block}td:empty{display:none}}"
          "@media(prefers-color-scheme:dark){body{color:#e4e9ee;background:#14191f}tr{border-color:#33404d}}</style>\n"
          "<h1>What a guest sees</h1>\n<p>A CGI program in a virtual machine of its own. Its machine:</p>\n<table>\n",
          stdout);
    machine();
    fputs("</table>\n<p>Its request, as its environment:</p>\n<table>\n", stdout);
    environment();
    fputs("</table>\n</html>\n", stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}
