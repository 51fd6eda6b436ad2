object 928cd104560eb0e356f71c992b282c13f0888c7c
type commit
tag v1.0.0
tagger Alice <alice@example.com> 1704067210 +0000

a tag

-----BEGIN PGP SIGNATURE-----
not really
-----BEGIN PGP SIGNATURE-----

iIgEABYIADAWIQSg7JCtlLKzHZYIYAcYKmMKLWXJegUCZZIAgBIcYWxpY2VAZXhh
bXBsZS5jb20ACgkQGCpjCi1lyXo+zwEAjdz5URk/gD0Hf+N22/mhokpeSz66Kais
q53zasSMeKQA/2LxPSYdWMYzt+GxpbYaj2dgv4LHDr/d0qebHbDpyHYG
=4XYM
-----END PGP SIGNATURE-----
