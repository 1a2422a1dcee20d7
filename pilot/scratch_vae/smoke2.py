"runs smoke whole, then again killed several times; compares ablation.json"
import subprocess, sys, time, json, shutil, os
py=sys.executable; here="pilot/scratch_vae/"
subprocess.run([py,"-W","ignore",here+"smoke.py","--new"],stdout=subprocess.DEVNULL,check=True)
first=json.load(open(here+"smoke/ablation.json")); shutil.rmtree(here+"smoke")
n=0
while not os.path.exists(here+"smoke/ablation.json"):
    p=subprocess.Popen([py,"-W","ignore",here+"smoke.py"],stdout=subprocess.DEVNULL)
    try: p.wait(8.5+n*0.8)
    except subprocess.TimeoutExpired: p.kill(); p.wait(); n+=1
second=json.load(open(here+"smoke/ablation.json"))
print("kills",n,"equal",first==second)
if first!=second:
    for k in first["arms"]:
        for f in ("vae","curves"):
            for a,b in zip(first["arms"][k][f],second["arms"][k][f]):
                for q in a:
                    if a[q]!=b[q]: print(k,f,q,str(a[q])[:80],str(b[q])[:80])
