"""Convex solvers for the union information I_Q, each with a primal-dual certificate.

In come the two marginals p(x1, y) and p(x2, y); out comes a `Solution`: a certified interval for
I_Q, the coupling that proves its upper end and the potentials that prove its lower end, nats.

    binary           two answers: closed form, by sorting (decision problems)
    interior_point   small tables: primal-dual interior point along the central path
                     (`central_path` steps, `newton` linear system)
    scaling          large tables: alternating Sinkhorn-like scaling
    quantise         samples: merges posteriors into `cells`, then one of the solvers above
    best_response    maximisation of the dual over one source's potentials, the other's given
    certificate      rounding to the marginals, shifting to dual feasibility
    envelope         gradient of I_Q in the masses, by the envelope theorem

Limits, for more than two answers: 2048 distinct rows per source (``most``), above which near ones
are merged and the interval is widened by what that may lose; 256 to 4096 scaling steps, about as
many as make 2^33 table entries (256 where the interior point can follow: where the smaller source
has rows times answers <= 1024); 120 Newton steps, which `discrete_pid` takes on tables of any
size. Tables of n1 n2 answers^2 <= 2^14 aim at 1e-7 nats. If ``tol`` is missed nothing is raised
or warned: ``gap`` is wider than ``tol`` (`Spectrum.doubtful` marks layers of more than 0.05 bits).

Certificates are in float64, rounded to nearest, without directed rounding: they hold up to the
rounding of sums. Constraints sum_y exp(a + b) <= 1 and marginals of couplings were found to hold
to 1e-15 on random tables; the answer marginals of the two sources may differ by 1e-9.
"""
