/* Greets the visitor named by the path, in the language that the browser asks for: /hello/Ada */
#include "edge.h"

typedef struct {
    const char *language, *greeting, *text;
} speech;

static const speech SPEECHES[] = {
    {"en", "Hello", "This page was made in a virtual machine of its own, at the edge."},
    {"de", "Hallo", "Diese Seite entstand am Netzrand, in einer eigenen virtuellen Maschine."},
    {"es", "Hola", "Esta página se creó en el borde de la red, en su propia máquina virtual."},
    {"fr", "Bonjour", "Cette page a été créée en bordure du réseau, dans sa propre machine virtuelle."},
    {"ja", "こんにちは", "このページは、エッジの専用の仮想マシンで作られました。"},
};

/* The first language of the list "de-CH, de;q=0.9, en;q=0.8" that we speak. */
static const speech *speech_for(const char *accepted) {
    while (*accepted != 0) {
        accepted += strspn(accepted, ", ");
        for (size_t i = 0; i < sizeof SPEECHES / sizeof *SPEECHES; i++) {
            if (strncmp(accepted, SPEECHES[i].language, 2) == 0) return &SPEECHES[i];
        }
        accepted += strcspn(accepted, ",");
    }
    return &SPEECHES[0];
}

static int answer(edge_request *req) {
    const speech *speech = speech_for(edge_or_empty(edge_header(req, "Accept-Language")));
    const char *slash = strrchr(req->path, '/');
    const char *name = slash != NULL && slash[1] != 0 ? slash + 1 : "world";
    edge_response res;

    edge_begin(&res, 200, "text/html; charset=utf-8");
    edge_set(&res, "Cache-Control", "max-age=60, stale-if-error=600");
    edge_set(&res, "Content-Language", speech->language);
    edge_set(&res, "Vary", "Accept-Language");
    edge_printf(&res,
                "<!doctype html>\n<html lang=\"%s\">\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width\">\n<title>%s</title>\n"
                "<style>body{font:1.2rem/1.6 system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem;color:#1b2430;"
                "background:#f4f7fb}h1{font-size:3rem;margin:0;color:#0b66c3}"
                "@media(prefers-color-scheme:dark){body{color:#e4e9ee;background:#14191f}h1{color:#7db8f2}}</style>\n<h1>%s, ",
                speech->language, speech->greeting, speech->greeting);
    edge_html(&res, name);
    edge_printf(&res, "!</h1>\n<p>%s</p>\n</html>\n", speech->text);
    edge_log("greeted in %s", speech->language);
    return edge_finish(&res, req);
}

int main(void) {
    static edge_request req;
    int more = edge_next(&req);
    while (more) more = answer(&req);
    return 1;
}
