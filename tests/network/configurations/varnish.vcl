# varnish with its own rules: a GET without Cache-Control is kept for two minutes.
vcl 4.0;
backend default {
    .host = "127.0.0.1";
    .port = "$FIRST";
}
